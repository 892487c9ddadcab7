"""`gpumod plugins`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("plugins", "plugins")
@click.pass_obj
def plugins(context: CliContext) -> None:
    """Every plugin, what it offers, and why a broken one was left out."""
    context.call("plugins", {})
