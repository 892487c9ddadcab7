"""Units and containers that nothing will start: their service is kept otherwise now, or is no longer defined."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.engine.leftovers import leftovers
from gpumod.operations.checks.case import Case, warning
from gpumod.operations.results import Check


def check_leftovers(case: Case) -> Iterator[Check]:
    for left in leftovers(case.machine):
        yield warning(f"service {left.service}", left.message, left.hint)
