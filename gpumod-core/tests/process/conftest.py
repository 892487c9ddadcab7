"""Real processes: a supervisor in a temporary home, and a way to start Python snippets as services."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.process import ProcessSupervisor
from gpumod.adapters.process.proc import by_nonce
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch


class Machine:
    """Starts snippets under a supervisor, and leaves nothing behind."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings = Settings(log_max_mb=1)
        self.supervisor = self.another()
        self.handles: list[Handle] = []

    def another(self, kill_timeout_s: float = 10.0) -> ProcessSupervisor:
        """A supervisor of the same home, as the next gpumod would make it."""
        return ProcessSupervisor(self.home, "0123456789ab", self.settings, SystemClock(), kill_timeout_s=kill_timeout_s)

    def service_dir(self, service: str) -> Path:
        """The service's own folder: what `{service_dir}` stands for."""
        return self.home / "services" / service

    def handle(self, service: str = "svc") -> Handle:
        handle = Handle(
            service=service,
            supervisor="process",
            nonce=secrets.token_hex(8),
            launched=Service(id=service, driver="fastapi"),
            started_at=0.0,
        )
        self.handles.append(handle)
        return handle

    @staticmethod
    def launch(code: str, **more: object) -> Launch:
        return Launch.model_validate(
            {"argv": (sys.executable, "-I", "-S", "-c", textwrap.dedent(code)), "stop_timeout_s": 5.0, **more}
        )

    async def start(self, code: str, service: str = "svc", **more: object) -> Handle:
        handle = self.handle(service)
        token = await self.supervisor.start(handle, self.launch(code, **more), {})
        return handle.model_copy(update={"token": token})

    async def lines(self, handle: Handle, count: int) -> tuple[str, ...]:
        """Wait until the service has written `count` lines, and return them."""
        await self.until(lambda: len(self.supervisor.logs(handle.service, count)) >= count)
        return self.supervisor.logs(handle.service, count)

    @staticmethod
    async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not true():
                await asyncio.sleep(0.005)

    def living(self, handle: Handle) -> list[int]:
        """Every process that carries the nonce of the handle, the shim too, told by /proc alone."""
        return [process.pid for process in by_nonce([handle.nonce])[handle.nonce]]

    def sweep(self) -> None:
        for handle in self.handles:
            while pids := self.living(handle):
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path / "home")
    yield machine
    machine.sweep()
