"""`gpumod mode ...`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from gpumod.cli.complete import MODES, SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import numbers_of, split_list
from gpumod.cli.lazy import subcommand
from gpumod.cli.switch import switch


@click.group("mode")
def mode() -> None:
    """Named sets of services that run together."""


mode.add_command(switch)


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """What both `create` and `edit` take of a mode and its members."""
    options = [
        click.option(
            "--start-order",
            multiple=True,
            metavar="S=N",
            help="Members of a lower N are ready before those of a higher one start.",
        ),
        click.option(
            "--idle-timeout",
            multiple=True,
            metavar="S=SECONDS",
            help="A member's time without use until it sleeps.",
        ),
        click.option("--name", help="A title."),
        click.option("--description", help="What it is for."),
    ]
    for option in reversed(options):  # as decorators do: the last one first
        command = option(command)
    return command


@subcommand(mode, "list", "mode_list")
@click.pass_obj
def list_modes(context: CliContext) -> None:
    """Every mode, its services and what they declare."""
    context.call("mode_list", {})


@subcommand(mode, "show", "mode_show")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def show(context: CliContext, mode: str) -> None:
    """The definition of MODE."""
    context.call("mode_show", {"mode": mode})


@subcommand(mode, "status", "mode_status")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def status(context: CliContext, mode: str) -> None:
    """Each member of MODE: the state that is wanted of it, and the real one."""
    context.call("mode_status", {"mode": mode})


@subcommand(mode, "verify", "mode_verify")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def verify(context: CliContext, mode: str) -> None:
    """Like status, for scripts: exit 1 unless every member is as wanted."""
    result = context.run("mode_verify", {"mode": mode})
    context.show(result)
    if not getattr(result, "whole", False):
        raise click.exceptions.Exit(1)


@subcommand(mode, "create", "mode_create")
@click.argument("mode")
@click.option("--services", required=True, metavar="A,B,C", help="Its services.", shell_complete=SERVICES)
@click.option("--sleep-on-idle", multiple=True, metavar="S[,S]", help="Members that take turns: one awake at a time.")
@click.option("--asleep", multiple=True, metavar="S[,S]", help="Members that sleep until they are woken.")
@_told
@click.pass_obj
def create(context: CliContext, /, mode: str, services: str, **options: Any) -> None:
    """Create MODE, a named set of services."""
    context.call("mode_create", {"id": mode, "members": _members(services), **_changes(**options)})


@subcommand(mode, "edit", "mode_edit")
@click.argument("mode", shell_complete=MODES)
@click.option("--services", metavar="A,B,C", help="These services, instead of those it has.", shell_complete=SERVICES)
@click.option("--add", multiple=True, metavar="S[,S]", help="Add a service.", shell_complete=SERVICES)
@click.option("--remove", multiple=True, metavar="S[,S]", help="Take a service away.", shell_complete=SERVICES)
@click.option("--sleep-on-idle", multiple=True, metavar="S[,S]", help="Members that take turns: one awake at a time.")
@click.option("--asleep", multiple=True, metavar="S[,S]", help="Members that sleep until they are woken.")
@click.option("--awake", multiple=True, metavar="S[,S]", help="Members that are always awake.")
@_told
@click.pass_obj
def edit(context: CliContext, /, mode: str, services: str | None, **options: Any) -> None:
    """Change MODE. What runs is left alone: `gpumod switch MODE` applies it."""
    members = None if services is None else _members(services)
    context.call("mode_edit", {"id": mode, "members": members, **_changes(**options)})


@subcommand(mode, "delete", "mode_delete")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def delete(context: CliContext, mode: str) -> None:
    """Delete MODE. Its services stay."""
    context.call("mode_delete", {"mode": mode})


def _members(services: str) -> list[dict[str, str]]:
    return [{"service": service} for service in split_list(services)]


def _ids(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for text in texts for name in split_list(text))


def _changes(**options: Any) -> dict[str, Any]:
    """The options of create and edit as parameters; a service that is wanted in two ways is an error."""
    want: dict[str, str] = {}
    for wanted, option in (("time-shared", "sleep_on_idle"), ("asleep", "asleep"), ("awake", "awake")):
        for name in _ids(options.get(option, ())):
            if want.setdefault(name, wanted) != wanted:
                raise click.UsageError(f"{name!r} is wanted both {want[name]} and {wanted}")
    return {
        "name": options["name"],
        "description": options["description"],
        "add": _ids(options.get("add", ())),
        "remove": _ids(options.get("remove", ())),
        "want": want,
        "start_order": numbers_of(options["start_order"], "--start-order", "chat=2"),
        "idle_timeout": numbers_of(options["idle_timeout"], "--idle-timeout", "chat=600, in seconds; 0: never"),
    }
