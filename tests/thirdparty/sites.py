"""Third parties' distributions, laid out as an installer does, without one: no network, and in a moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any


def lay_out(project: Path, site: Path) -> None:
    """The modules and the metadata of `project` in `site`, by its pyproject.toml."""
    table = tomllib.loads((project / "pyproject.toml").read_text())
    name, version = table["project"]["name"], table["project"]["version"]
    for module in table["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        shutil.copy(project / module, site)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points: dict[str, Any] = table["project"]["entry-points"]["gpumod"]
    lines = ["[gpumod]", *(f"{entry} = {target}" for entry, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(site: Path, *command: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A module of Python (`-m`) with `site` on its path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GPUMOD_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(site), "NO_COLOR": "1", **environ}
    argv = [sys.executable, "-m", *command]
    return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
