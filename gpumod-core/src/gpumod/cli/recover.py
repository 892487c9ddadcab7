"""`gpumod recover`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("recover", "recover")
@click.option("--resume", is_flag=True, help="Go on to where the run was going.")
@click.option("--rollback", is_flag=True, help="Go back to what was there before it.")
@click.option(
    "--force", is_flag=True, help="Go on though it does not fit, or a turn is in the way (never beside another change)."
)
@click.pass_obj
def recover(context: CliContext, resume: bool, rollback: bool, force: bool) -> None:
    """Close a run that was left half-way. Without an option: show it, and both ways."""
    if resume and rollback:
        raise click.UsageError("--resume and --rollback exclude each other")
    way = "resume" if resume else "rollback" if rollback else None
    context.call("recover", {"way": way, "force": force})
