"""How soon the program answers, against the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from bench.measure import Row, median_s, plain_environment


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=plain_environment())


def measure() -> Iterator[Row]:
    """`gpumod --help`, and a command's own help."""
    bare = median_s(partial(_run, "-c", "pass"))
    for arguments in (["--help"], ["--version"], ["switch", "--help"]):
        taken = median_s(partial(_run, "-m", "gpumod", *arguments))
        yield Row(
            what=f"gpumod {' '.join(arguments)}",
            seconds=taken,
            against="python -c pass",
            against_seconds=bare,
            aim="under 8" if arguments == ["--help"] else "",
        )
