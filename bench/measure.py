"""What a benchmark gives: rows. A module `bench_*.py` has `def measure() -> Iterable[Row]` and a docstring."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number, and what it is compared with in the same run. `aim` says what we would like to see."""

    what: str
    seconds: float
    against: str = ""
    against_seconds: float | None = None
    aim: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long as what it is compared with; None where it is compared with nothing."""
        return self.seconds / self.against_seconds if self.against_seconds else None


def plain_environment(**more: str) -> dict[str, str]:
    """The environment of a measured program: no settings of gpumod, and bytecode is kept as in an installation."""
    left_out = ("GPUMOD_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | more


def median_s(action: Callable[[], object], repeats: int = 7) -> float:
    """The median of the seconds that `action` takes, after one call that does not count."""
    action()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
