"""Tests that need a systemd write units and stop what they find: they run in `tests/systemd/box` and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    folder = config.option.basetemp
    if os.environ.get("GPUMOD_TEST_BOX") == "1" and folder:  # chosen outside of the box, by whoever runs its workers
        Path(folder).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    if os.environ.get("GPUMOD_TEST_BOX") == "1":
        return
    for item in items:
        if item.get_closest_marker("systemd"):
            item.add_marker(pytest.mark.skip(reason="needs a systemd to throw away: nox -s systemd"))
