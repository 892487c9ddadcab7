"""`gpumod plugins ...`."""

from __future__ import annotations

import click

from gpumod.cli.context import CliContext
from gpumod.cli.inputs import Folder
from gpumod.cli.lazy import json_option, subcommand


@click.group(
    "plugins",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [ARGS]...",  # older versions of click say it otherwise
    params=[json_option()],
)
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """What plugins offer, and tools for their authors. Alone: `gpumod plugins list`."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_plugins)


@subcommand(plugins, "list", "plugins")
@click.pass_obj
def list_plugins(context: CliContext) -> None:
    """Every plugin, what it offers, and why a broken one was left out."""
    context.call("plugins", {})


@subcommand(plugins, "check", "plugins_check")
@click.argument("name")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="A preset whose services show what it is for (again for more); else all that are known.",
)
@click.pass_obj
def check(context: CliContext, name: str, presets: tuple[str, ...]) -> None:
    """Test whether what is offered as NAME keeps its promises; exit 1 when it does not.

    NAME is that of a driver, a sleep level, a VRAM estimator, a source of model information or a supervisor. The suites
    of gpumod.testing are run in a process of their own. Only a supervisor starts anything: small processes, which it is
    to stop again.
    """
    context.call("plugins_check", {"name": name, "presets": presets})


@subcommand(plugins, "new", "plugins_new")
@click.argument("name")
@click.option("--folder", metavar="DIR", type=Folder(), help="Where the folder gpumod-NAME is to be (default: here).")
@click.pass_obj
def new(context: CliContext, name: str, folder: str | None) -> None:
    """Write a distribution with a driver called NAME and its tests, to install and to change.

    All of it is written or nothing, and nothing that is there is overwritten.
    """
    context.call("plugins_new", {"name": name, "folder": folder})
