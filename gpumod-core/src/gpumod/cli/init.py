"""`gpumod init`."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpumod.cli.context import CliContext
from gpumod.cli.inputs import sim_cards
from gpumod.cli.lazy import command
from gpumod.cli.text import safe


@command("init", "init")
@click.option(
    "--sim", metavar="NAME:MB[,NAME:MB]", help="Make a simulated machine of these cards (as in 'RTX 4090:24564')."
)
@click.option(
    "--sim-dir", metavar="DIR", help="Where that machine is kept (default: inside the home); joins one that is there."
)
@click.option("--take", multiple=True, metavar="ID", help="Make a service of this proposal. May be repeated.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask first, and make services of all proposals.")
@click.pass_obj
def init(context: CliContext, sim: str | None, sim_dir: str | None, take: tuple[str, ...], yes: bool) -> None:
    """Make this machine ready: create the home and its database, load the presets. Doing it again harms nothing.

    On a real machine it looks for services that are there: units, containers and processes with GPU memory, vLLM,
    llama.cpp, ollama and llama-swap, and proposes to manage them. In the home of a simulated machine it proposes only
    what is on that machine's cards. Nothing is started, stopped or changed.
    """
    if take and (sim is not None or sim_dir is not None):
        raise click.UsageError("--take goes without --sim and --sim-dir: these look for nothing that could be taken")
    values: dict[str, Any] = {"sim": sim_cards(sim) if sim is not None else (), "sim_dir": sim_dir, "take": take}
    values["take_all"] = yes and not take
    asks = not yes and not context.json and sys.stdin.isatty()
    if asks:
        where = f" in {context.home}" if context.home is not None else ""
        click.confirm(
            f"Create gpumod's home and database{where}, and load the presets?", default=True, abort=True, err=True
        )
    result: Any = context.run("init", values)
    open_to = [p for p in result.proposals if p.problem is None and p.id not in take] if asks else []
    context.show(result)
    # by what they are: an id may be another's by now
    wanted = [p.what for p in open_to if click.confirm(f"Manage {safe(p.what)} as {p.id}?", default=False, err=True)]
    if wanted:
        context.show(context.run("init", {"take": wanted}))
