"""`gpumod history ...`."""

from __future__ import annotations

import click

from gpumod.cli.complete import RUNS
from gpumod.cli.context import CliContext
from gpumod.cli.lazy import subcommand


@click.group("history")
def history() -> None:
    """What was done and simulated."""


@subcommand(history, "list", "history_list")
@click.option("-n", "--limit", type=int, metavar="N", help="At most N (default 20).")
@click.pass_obj
def list_runs(context: CliContext, limit: int | None) -> None:
    """The latest runs and events."""
    context.call("history_list", {"limit": limit})


@subcommand(history, "show", "history_show")
@click.argument("run", default="last", shell_complete=RUNS)
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended, and leave with its exit status.")
@click.pass_obj
def show(context: CliContext, run: str, follow: bool) -> None:
    """One run, step by step. RUN is its id or the beginning of it; without it, the last run.

    With --follow a run that goes on elsewhere (`gpumod switch --detach`) is shown live; Ctrl-C ends the showing alone.
    """
    context.call("history_show", {"run": run, "follow": follow})


@subcommand(history, "simulations", "simulations")
@click.option("-n", "--limit", type=int, metavar="N", help="At most N (default 20).")
@click.pass_obj
def simulations(context: CliContext, limit: int | None) -> None:
    """The latest simulations."""
    context.call("simulations", {"limit": limit})
