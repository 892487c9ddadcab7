"""The log of a container: its last lines, of the last run alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpumod_docker.engine import spoken

FROM_THE_FIRST = 0.001
"""Where the last begin is not known all that the container wrote is told."""


def last_lines(path: Path, container: str, since: float, lines: int) -> tuple[str, ...]:
    """At most `lines` lines that were written since `since` (seconds since the epoch). Blocking."""
    if lines <= 0:
        return ()
    with spoken(path, "read a log") as asked:
        text: Any = asked.logs(container, stdout=True, stderr=True, since=since, tail=lines)
    return tuple(clean(text.split(b"\n")))[-lines:]


def clean(pieces: Iterable[bytes]) -> Iterable[str]:
    """Lines as a terminal would show them: what a carriage return has overwritten is left out."""
    *whole, last = pieces
    for piece in [*whole, *([last] if last else [])]:
        yield piece.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]


def since_of(note: Mapping[str, Any], container: str) -> float:
    """From when on the log is the last run's: it was noted before the start, when all of an earlier run was written."""
    if note.get("container") == container and isinstance(note.get("since"), float):
        return float(note["since"])
    return FROM_THE_FIRST
