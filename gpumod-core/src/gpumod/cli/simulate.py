"""`gpumod simulate`."""

from __future__ import annotations

from typing import Any

import click

from gpumod.cli.complete import MODES, SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import numbers_of, split_list
from gpumod.cli.lazy import command


@command("simulate", "simulate")
@click.option("--mode", metavar="M", help="Begin with the services of this mode.", shell_complete=MODES)
@click.option("--services", metavar="A,B,C", help="Begin with these services.", shell_complete=SERVICES)
@click.option("--add", multiple=True, metavar="S[,S]", help="Add a service.", shell_complete=SERVICES)
@click.option("--remove", multiple=True, metavar="S[,S]", help="Leave a service out.", shell_complete=SERVICES)
@click.option("--context", "tokens", multiple=True, metavar="S=N", help="With a context of N tokens (16k = 16384).")
@click.option(
    "--gpu-total",
    "gpu_total_mb",
    type=int,
    metavar="MB",
    help="On an imaginary machine with one empty card of this size.",
)
@click.option("--visual", is_flag=True, help="Draw the memory before and after, to scale.")
@click.pass_obj
def simulate(context: CliContext, /, mode: str | None, services: str | None, visual: bool, **options: Any) -> None:
    """Show whether services fit together: verdict, memory, steps, alternatives. Nothing is started.

    Without --mode and --services it begins with what serves now. Exit status 3 when it does not fit.
    """
    if mode is not None and services is not None:
        raise click.UsageError("--mode and --services exclude each other")
    add, remove = (tuple(name for text in options[key] for name in split_list(text)) for key in ("add", "remove"))
    changes = add or remove or options["tokens"] or options["gpu_total_mb"] is not None
    if mode is None and services is None and not changes:
        raise click.UsageError("say what to simulate: --mode, --services, or a change of what serves now (--add ...)")
    values = {
        "mode": mode,
        "services": None if services is None else split_list(services),
        "add": add,
        "remove": remove,
        "context": numbers_of(options["tokens"], "--context"),
        "gpu_total_mb": options["gpu_total_mb"],
    }
    context.call("simulate", values, visual=visual)
