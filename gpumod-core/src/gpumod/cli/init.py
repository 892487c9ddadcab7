"""`gpumod init`."""

from __future__ import annotations

import sys

import click

from gpumod.cli.context import CliContext
from gpumod.cli.inputs import sim_cards
from gpumod.cli.lazy import command


@command("init", "init")
@click.option(
    "--sim", metavar="NAME:MB[,NAME:MB]", help="Make a simulated machine of these cards (as in 'RTX 4090:24564')."
)
@click.option(
    "--sim-dir", metavar="DIR", help="Where that machine is kept (default: inside the home); joins one that is there."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask first.")
@click.pass_obj
def init(context: CliContext, sim: str | None, sim_dir: str | None, yes: bool) -> None:
    """Make this machine ready: create the home and its database, load the presets. Doing it again harms nothing."""
    values = {"sim": sim_cards(sim) if sim is not None else (), "sim_dir": sim_dir}
    if not yes and not context.json and sys.stdin.isatty():
        where = f" in {context.home}" if context.home is not None else ""
        click.confirm(
            f"Create gpumod's home and database{where}, and load the presets?", default=True, abort=True, err=True
        )
    context.call("init", values)
