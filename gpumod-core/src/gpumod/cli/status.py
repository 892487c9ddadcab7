"""`gpumod status` and `gpumod ps`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("status", "status")
@click.option("--visual", is_flag=True, help="Draw the VRAM of each GPU to scale.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.pass_obj
def status(context: CliContext, visual: bool, watch: bool) -> None:
    """What runs now: the mode, each GPU's memory, each service as it really is, foreign processes."""
    if not watch:
        context.call("status", {}, visual=visual)
        return
    if context.json:
        raise click.UsageError("--watch draws for people; with --json, run `gpumod status --json` again instead")
    from gpumod.cli.watch import watch_status  # rich is for people alone

    watch_status(context, visual=visual)


@command("ps", "ps")
@click.pass_obj
def ps(context: CliContext) -> None:
    """Processes of services and foreign ones, with what each holds on a GPU."""
    context.call("ps", {})
