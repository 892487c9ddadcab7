"""What runs for this home and is not in its database: it was edited by hand, or is an older copy."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.operations.checks.case import Case, problem
from gpumod.operations.results import Check


def check_strays(case: Case) -> Iterator[Check]:
    for stray in case.strays:
        yield problem(
            f"service {stray.service}",
            f"pid {stray.pid or '?'} is a process of this home that the database does not name:"
            " it was edited by hand, or is an older copy",
            f"`{stray.end}` ends it, with its workers; then start it again",
        )
