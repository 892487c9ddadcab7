"""`gpumod doctor`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("doctor", "doctor")
@click.pass_obj
def doctor(context: CliContext) -> None:
    """Check GPUs, programs, database, plugins and services; exit 1 when something is wrong."""
    context.call("doctor", {})
