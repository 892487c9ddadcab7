"""`gpumod service ...`."""

from __future__ import annotations

from typing import Any

import click

from gpumod.cli.adopting import adopt, release
from gpumod.cli.change_options import service_change_options
from gpumod.cli.complete import SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.lazy import subcommand
from gpumod.cli.secret import secret
from gpumod.cli.service_options import fields_of, service_options
from gpumod.cli.turn import sleep_idle, turn


@click.group("service")
def service() -> None:
    """Define, start, stop, sleep and wake services."""


@subcommand(service, "list", "service_list")
@click.pass_obj
def list_services(context: CliContext) -> None:
    """Every service that is defined."""
    context.call("service_list", {})


@subcommand(service, "show", "service_show")
@click.argument("service", shell_complete=SERVICES)
@click.pass_obj
def show(context: CliContext, service: str) -> None:
    """The definition of SERVICE, what it takes, and where each number comes from."""
    context.call("service_show", {"service": service})


@subcommand(service, "status", "service_status")
@click.argument("service", shell_complete=SERVICES)
@click.pass_obj
def status(context: CliContext, service: str) -> None:
    """SERVICE as it really is now."""
    context.call("service_status", {"service": service})


@subcommand(service, "add", "service_add")
@click.option("--id", "service_id", required=True, metavar="ID", help="Its name: letters, digits, . _ -")
@service_options
@click.pass_obj
def add(context: CliContext, /, service_id: str, **options: Any) -> None:
    """Define a service. Nothing is started.

    Keys of --set for fastapi: command, cwd, env, sleep_path, wake_path; the README of each driver lists all of its own.
    In --model-path, cwd, mmproj and model_draft $MODELS_DIR, $HF_HOME, $HOME and ~ are expanded as in presets (quote
    them: your shell has variables of its own).
    """
    context.call("service_add", {"id": service_id, **fields_of(options)})


@subcommand(service, "edit", "service_edit")
@click.argument("service", shell_complete=SERVICES)
@service_options
@click.option("--unset", multiple=True, metavar="KEY", help="Take away a field or an option of the driver.")
@click.pass_obj
def edit(context: CliContext, /, service: str, unset: tuple[str, ...], **options: Any) -> None:
    """Change the definition of SERVICE. Nothing is restarted: it shows what runs with an older one, and how
    to apply it."""
    context.call("service_edit", {"id": service, **fields_of(options), "unset": unset})


@subcommand(service, "remove", "service_remove")
@click.argument("service", shell_complete=SERVICES)
@click.option("--stop", is_flag=True, help="Stop it first if it runs.")
@click.option("--cascade", is_flag=True, help="Take it out of the modes that name it.")
@click.pass_obj
def remove(context: CliContext, service: str, stop: bool, cascade: bool) -> None:
    """Forget SERVICE. Refused while it runs (but for --stop), or while a mode names it (but for --cascade)."""
    context.call("service_remove", {"service": service, "stop": stop, "cascade": cascade})


@subcommand(service, "start", "service_start")
@click.argument("service", shell_complete=SERVICES)
@service_change_options
@click.pass_obj
def start(context: CliContext, /, **values: Any) -> None:
    """Start SERVICE (and what it needs) beside what runs, if it fits."""
    context.call("service_start", values)


@subcommand(service, "stop", "service_stop")
@click.argument("service", shell_complete=SERVICES)
@service_change_options
@click.pass_obj
def stop(context: CliContext, /, **values: Any) -> None:
    """Stop SERVICE, with every process of it, and wait until its memory is back."""
    context.call("service_stop", values)


@subcommand(service, "restart", "service_restart")
@click.argument("service", shell_complete=SERVICES)
@service_change_options
@click.pass_obj
def restart(context: CliContext, /, **values: Any) -> None:
    """Stop and start SERVICE, with its definition of now."""
    context.call("service_restart", values)


@subcommand(service, "sleep", "service_sleep")
@click.argument("service", shell_complete=SERVICES)
@service_change_options
@click.pass_obj
def sleep(context: CliContext, /, **values: Any) -> None:
    """Put SERVICE to sleep: it gives back most of its memory and wakes faster than it starts. One that has no
    sleep mode is stopped."""
    context.call("service_sleep", values)


@subcommand(service, "wake", "service_wake")
@click.argument("service", shell_complete=SERVICES)
@service_change_options
@click.pass_obj
def wake(context: CliContext, /, **values: Any) -> None:
    """Wake SERVICE, if its memory fits."""
    context.call("service_wake", values)


@subcommand(service, "unit", "service_unit")
@click.argument("service", shell_complete=SERVICES)
@click.option("--write", is_flag=True, help="Write it, if it differs, and have systemd read it. Starts nothing.")
@click.pass_obj
def unit(context: CliContext, service: str, write: bool) -> None:
    """The systemd unit of SERVICE as it would be written now, and its difference to what is there."""
    context.call("service_unit", {"service": service, "write": write})


service.add_command(turn)
service.add_command(sleep_idle)
service.add_command(secret)
service.add_command(adopt)
service.add_command(release)


@subcommand(service, "logs", "service_logs")
@click.argument("service", shell_complete=SERVICES)
@click.option("-n", "--lines", type=int, default=50, show_default=True, metavar="N", help="The last N lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.pass_obj
def logs(context: CliContext, service: str, lines: int, follow: bool) -> None:
    """The last lines that SERVICE wrote."""
    values = {"service": service, "lines": lines}
    if not follow:
        context.call("service_logs", values)
        return
    if context.json:
        raise click.UsageError("-f goes on for ever; --json prints one document")
    from gpumod.cli.follow import follow_logs  # needs the results

    follow_logs(context.run("service_logs", values), lines)
