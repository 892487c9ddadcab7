"""Cases of a test of which the default run takes the first few, and CI all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(number: int, cases: Iterable[Any]) -> list[Any]:
    """Parameters: those after the first `number` are slow. A case of several values is a tuple."""
    every = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=pytest.mark.slow if at >= number else ()) for at, case in enumerate(every)]
