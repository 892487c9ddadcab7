"""Plugins: those that are broken, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.operations.checks.case import Case, fine, problem
from gpumod.operations.results import Check


def check_plugins(case: Case) -> Iterator[Check]:
    records = case.machine.plugins.records
    for record in records:
        for error in (record.error, *record.problems):
            if error is not None:
                name = f"plugin {record.name or record.distribution}"
                yield problem(name, f"{error.message}: {error.why}", error.hint)
    yield fine("plugins", f"{sum(1 for record in records if record.error is None)} loaded")
