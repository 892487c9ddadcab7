"""`gpumod mode ...`."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Each member of MODE: wanted and real."""
    context.call("mode_status", {"mode": mode})


@subcommand(mode, "verify", "mode_verify")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def verify(context: CliContext, mode: str) -> None:
    """Like status, asking every service; exit 1 unless MODE is whole."""
    result = context.run("mode_verify", {"mode": mode})
    context.show(result)
    if not getattr(result, "whole", False):
        raise click.exceptions.Exit(1)


@subcommand(mode, "create", "mode_create")
@click.argument("mode")
@click.option("--services", required=True, metavar="A,B,C", help="Its services.", shell_complete=SERVICES)
@click.option("--sleep-on-idle", multiple=True, metavar="S[,S]", help="Members that take turns: one awake at a time.")
@click.option("--asleep", multiple=True, metavar="S[,S]", help="Members that sleep until they are woken.")
@click.option("--start-order", multiple=True, metavar="S=N", help="Members of a lower N are ready before a higher.")
@click.option("--name", help="A title.")
@click.option("--description", help="What it is for.")
@click.pass_obj
def create(context: CliContext, mode: str, services: str, name: str | None, description: str | None, **wants: Any) -> None:
    """Create MODE, a named set of services."""
    values = {"id": mode, "members": _members(split_list(services)), "name": name, "description": description}
    context.call("mode_create", values | _wishes(**wants))


@subcommand(mode, "edit", "mode_edit")
@click.argument("mode", shell_complete=MODES)
@click.option("--services", metavar="A,B,C", help="These services, instead of those it has.", shell_complete=SERVICES)
@click.option("--add", multiple=True, metavar="S[,S]", help="Add a service.", shell_complete=SERVICES)
@click.option("--remove", multiple=True, metavar="S[,S]", help="Take a service away.", shell_complete=SERVICES)
@click.option("--sleep-on-idle", multiple=True, metavar="S[,S]", help="Members that take turns: one awake at a time.")
@click.option("--asleep", multiple=True, metavar="S[,S]", help="Members that sleep until they are woken.")
@click.option("--awake", multiple=True, metavar="S[,S]", help="Members that are always awake.")
@click.option("--start-order", multiple=True, metavar="S=N", help="Members of a lower N are ready before a higher.")
@click.option("--name", help="A title.")
@click.option("--description", help="What it is for.")
@click.pass_obj
def edit(
    context: CliContext,
    mode: str,
    services: str | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    name: str | None,
    description: str | None,
    **wants: Any,
) -> None:
    """Change MODE. What runs is left alone: `gpumod switch MODE` applies it."""
    values = {
        "id": mode,
        "members": None if services is None else _members(split_list(services)),
        "add": _ids(add),
        "remove": _ids(remove),
        "name": name,
        "description": description,
    }
    context.call("mode_edit", values | _wishes(**wants))


@subcommand(mode, "delete", "mode_delete")
@click.argument("mode", shell_complete=MODES)
@click.pass_obj
def delete(context: CliContext, mode: str) -> None:
    """Delete MODE. Its services stay."""
    context.call("mode_delete", {"mode": mode})


def _members(services: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"service": service} for service in services]


def _ids(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for text in texts for name in split_list(text))


def _wishes(
    sleep_on_idle: tuple[str, ...], asleep: tuple[str, ...], start_order: tuple[str, ...], awake: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What is wanted of single members; one that is named under two options is an error."""
    want: dict[str, str] = {}
    for wanted, names in (("time-shared", sleep_on_idle), ("asleep", asleep), ("awake", awake)):
        for name in _ids(names):
            if want.setdefault(name, wanted) != wanted:
                raise click.UsageError(f"{name!r} is wanted both {want[name]} and {wanted}")
    return {"want": want, "start_order": numbers_of(start_order, "--start-order")}
