"""Machines whose GPUs are read through the real binding of NVML, from a stand-in for the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import machine, make_machine, until
from tests.nvml.driver import Driver, running_driver

__all__ = ["driver", "machine", "make_machine", "until"]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    with running_driver(tmp_path / "driver", monkeypatch) as found:
        yield found
