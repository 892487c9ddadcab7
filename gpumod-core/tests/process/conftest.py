"""Real processes: a supervisor in a temporary home, and a way to start Python snippets as services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.process import ProcessSupervisor
from gpumod.testing.supervisor_bench import Bench


class Machine(Bench):
    """A bench whose supervisors can be impatient."""

    supervisor: ProcessSupervisor

    def __init__(self, home: Path) -> None:
        super().__init__(home, lambda _home, _settings: self.another())

    def another(self, kill_timeout_s: float = 10.0) -> ProcessSupervisor:
        return ProcessSupervisor(self.home, "0123456789ab", self.settings, SystemClock(), kill_timeout_s=kill_timeout_s)

    def service_dir(self, service: str) -> Path:
        """The service's own folder: what `{service_dir}` stands for."""
        return self.home / "services" / service


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path / "home")
    yield machine
    machine.sweep()
