"""Commands of other distributions (entry-point group `gpumod.commands`), listed without loading anything.

The listing reads `entry_points.txt` itself: importing an entry-point library costs more than the rest of
`gpumod --help` together. Loading one goes through the plugin loader.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

_SECTION = "[gpumod.commands]"


@cache
def extra_commands() -> dict[str, str]:
    """Names of the commands, with a line that says which distribution brings each."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(sys.path):
        for name in _dist_infos(folder or "."):
            for command in _commands_in(Path(folder or ".", name, "entry_points.txt")):
                found.setdefault(command, f"(from {_distribution(name)})")
    return dict(sorted(found.items()))


def load_extra_command(name: str) -> click.Command | None:
    """Load one of them. Raises GpumodError when its distribution is broken."""
    from gpumod.plugins.entries import load_command  # imports pluggy and the entry-point library

    return load_command(name)


def _dist_infos(folder: str) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(folder) if entry.endswith((".dist-info", ".egg-info")))  # noqa: PTH208  # pathlib is slower, and this is why the function exists
    except OSError:
        return []


def _commands_in(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    if _SECTION not in text:
        return []
    section = text.partition(_SECTION)[2].partition("\n[")[0]
    names = [line.partition("=")[0].strip() for line in section.splitlines() if "=" in line]
    return [name for name in names if name and name.isprintable()]


def _distribution(dist_info: str) -> str:
    return dist_info.partition("-")[0].replace("_", "-")
