"""`gpumod preset ...`."""

from __future__ import annotations

import click

from gpumod.cli.complete import PRESETS
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import Folder
from gpumod.cli.lazy import subcommand


@click.group("preset")
def preset() -> None:
    """Ready-made services and modes, as YAML."""


@subcommand(preset, "list", "preset_list")
@click.pass_obj
def list_presets(context: CliContext) -> None:
    """Every preset, where it comes from, and whether it is loaded."""
    context.call("preset_list", {})


@subcommand(preset, "show", "preset_show")
@click.argument("preset", shell_complete=PRESETS)
@click.option(
    "--kind",
    type=click.Choice(["service", "mode"]),
    help="Which of the two, where a service and a mode have this name.",
)
@click.pass_obj
def show(context: CliContext, preset: str, kind: str | None) -> None:
    """The YAML of PRESET."""
    context.call("preset_show", {"preset": preset, "kind": kind})


@subcommand(preset, "load", "preset_load")
@click.argument("presets", nargs=-1, metavar="[PRESET]...", shell_complete=PRESETS)
@click.option("--update", is_flag=True, help="Also overwrite fields that you edited.")
@click.option(
    "--folder", metavar="DIR", type=Folder(), help="Load from this folder alone, not from those that gpumod knows."
)
@click.pass_obj
def load(context: CliContext, presets: tuple[str, ...], update: bool, folder: str | None) -> None:
    """Load presets (all, unless named). Nothing is ever deleted; a broken file is reported and skipped."""
    context.call("preset_load", {"ids": presets, "update": update, "folder": folder})


@subcommand(preset, "validate", "preset_validate")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@click.pass_obj
def validate(context: CliContext, paths: tuple[str, ...]) -> None:
    """Check preset files or folders; exit 1 when one is broken."""
    context.call("preset_validate", {"paths": paths})
