"""`gpumod doctor`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("doctor", "doctor")
@click.pass_obj
def doctor(context: CliContext) -> None:
    """Check this machine, this home and its services; exit 0 only when nothing is wrong.

    Each finding says how to mend it. A warning counts as wrong, too; what could not be looked at (`unknown`) does not.
    Nothing is changed.
    """
    context.call("doctor", {})
