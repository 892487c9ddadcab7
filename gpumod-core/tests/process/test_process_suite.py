"""The process supervisor keeps what every supervisor promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.process import ProcessSupervisor
from gpumod.testing.supervisor_bench import Bench
from gpumod.testing.supervisor_suite import SupervisorSuite


class TestProcessSupervisor(SupervisorSuite):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        bench = Bench(
            tmp_path / "home", lambda home, settings: ProcessSupervisor(home, "0123456789ab", settings, SystemClock())
        )
        yield bench
        bench.sweep()
