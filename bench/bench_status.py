"""`gpumod status --json` with 50 services defined (none of them up), against the import that costs most."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.measure import Row, median_s, plain_environment

SERVICES = 50
FIRST_PORT = 21_000


def measure() -> Iterator[Row]:
    """A simulated home in a temporary folder; the presets are loaded besides."""
    with tempfile.TemporaryDirectory(prefix="gpumod-bench-") as name:
        folder = Path(name)
        run = partial(_run, folder / "home")
        run("-m", "gpumod", "init", "--sim", "card:24564", "--yes", "--json")
        run("-m", "gpumod", "preset", "load", "--folder", str(_presets(folder / "presets")), "--json")
        imported_s = median_s(partial(run, "-c", "import sqlmodel"))
        for what, arguments in (("status", ["status"]), ("simulate --mode code", ["simulate", "--mode", "code"])):
            yield Row(
                what=f"gpumod {what} --json, {SERVICES} services",
                seconds=median_s(partial(run, "-m", "gpumod", *arguments, "--json")),
                against="import sqlmodel",
                against_seconds=imported_s,
                aim="under 1.6" if what == "status" else "",
            )


def _run(home: Path, *arguments: str) -> None:
    environment = plain_environment(GPUMOD_HOME=str(home))
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def _presets(folder: Path) -> Path:
    folder.mkdir()
    for n in range(SERVICES):
        lines = [f"id: bench-{n}", f"name: Service {n}", "driver: fastapi", f"port: {FIRST_PORT + n}", "vram_mb: 100"]
        lines += ["unit_vars:", "  command: [uvicorn, app:app]"]
        (folder / f"bench-{n}.yaml").write_text("\n".join(lines) + "\n")
    return folder
