"""For every test of this repository: less garbage collection."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end: looking through it again and again costs an eighth of the
    whole run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
