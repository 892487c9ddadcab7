"""`gpumod settings ...`."""

from __future__ import annotations

import re

import click

from gpumod.cli.complete import SETTINGS
from gpumod.cli.context import CliContext
from gpumod.cli.lazy import OperationCommand, subcommand


@click.group("settings")
def settings() -> None:
    """Show and change settings."""


@subcommand(settings, "list", "settings_list")
@click.pass_obj
def list_settings(context: CliContext) -> None:
    """Every setting, its value, and where that comes from."""
    context.call("settings_list", {})


@subcommand(settings, "get", "settings_get")
@click.argument("key", shell_complete=SETTINGS)
@click.pass_obj
def get(context: CliContext, key: str) -> None:
    """The value of KEY, and where it comes from."""
    context.call("settings_get", {"key": key})


class SetCommand(OperationCommand):
    """A negative number is a value here, not an option: it is then refused, or taken, as such."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        numbers = [] if "--" in args else [arg for arg in args if re.fullmatch(r"-[\d.]+", arg)]
        rest = [arg for arg in args if arg not in numbers]
        return super().parse_args(ctx, [*rest, "--", *numbers] if numbers else args)


@settings.command("set", cls=SetCommand, operation="settings_set")
@click.argument("key", shell_complete=SETTINGS)
@click.argument("value", required=False)
@click.option("--default", "restore", is_flag=True, help="Forget what was stored: the default holds again.")
@click.pass_obj
def set_setting(context: CliContext, key: str, value: str | None, restore: bool) -> None:
    """Store VALUE for KEY, checked first. `gpumod settings list` shows every key."""
    if (value is None) != restore:
        raise click.UsageError("give either a VALUE or --default")
    context.call("settings_set", {"key": key, "value": value})
