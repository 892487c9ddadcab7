"""The lines with which a Python program ends because of memory or its port: the last ones of a traceback.

Its own log may say anything, so they count at the beginning of a line alone; but for asyncio's own words on a port,
which a program's format of its log may come before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from gpumod.api import FatalLine, LogRule

LESS = "stop what else is on the GPU, or raise vram_mb to what it really takes"

RULES = (
    LogRule(
        "out-of-memory",
        re.compile(
            r"^\S*OutOfMemoryError: .*out of memory\. Tried to allocate (?P<need>[\d.]+) (?P<need_unit>[KMGT]iB)"
            r".*?of which (?P<have>[\d.]+) (?P<have_unit>[KMGT]iB) is free",
        ),
        LESS,
    ),
    LogRule("out-of-memory", re.compile(r"^(\S*OutOfMemoryError|RuntimeError: CUDA error: out of memory)"), LESS),
    LogRule(
        "port-taken",
        re.compile(r"^(OSError: |ERROR:\s+)\[Errno 98\]|\[Errno 98\] error while attempting to bind on address"),
        "give the service another port, or stop what listens there",
    ),
)

STARTUP_FAILED = re.compile(r"^ERROR:\s+Application startup failed")
"""What uvicorn writes after the reason, and before a traceback of its own end."""


def startup_failed(lines: Sequence[str]) -> FatalLine | None:
    """Why an app could not start up, where uvicorn says that it could not: the line before."""
    for before, line in pairwise(line for line in lines if line.strip()):
        if STARTUP_FAILED.match(line):
            return FatalLine(code="crashed", line=before.removeprefix("ERROR:").strip())
    return None
