"""Real processes for the suite of supervisors: snippets of Python as services, started and looked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch, ProcessStatus, Supervisor

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
FAMILY = """
    import os, signal, sys, time
    def worker(kind, depth):
        if os.fork() == 0:
            if kind == 'detached':
                os.setsid()
                between = os.getpid()
                if os.fork():
                    os._exit(0)
                while os.getppid() == between:
                    time.sleep(0.001)
            if kind == 'deaf':
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if depth:
                worker(kind, depth - 1)
            print('worker', os.getpid(), flush=True)
            time.sleep(600)
            os._exit(0)
    for kind in ('plain', 'detached', 'deaf'):
        worker(kind, 1)
    time.sleep(600)
"""
"""Six workers: some left their session, some do not hear SIGTERM."""


class Bench:
    """Starts snippets under a supervisor, and leaves nothing behind.

    `make` gives a supervisor of a home, as the next gpumod would make it.
    """

    def __init__(self, home: Path, make: Callable[[Path, Settings], Supervisor]) -> None:
        self.home = home
        # wherever the tests run: what they start is to end with them
        self.settings = Settings(log_max_mb=1, end_with_unit="allow")
        self._make = make
        self.supervisor = self.another()
        self.handles: list[Handle] = []

    def another(self) -> Supervisor:
        return self._make(self.home, self.settings)

    def handle(self, service: str = "svc") -> Handle:
        """A handle as it is stored before a start."""
        handle = Handle(
            service=service,
            supervisor=self.supervisor.name,
            nonce=secrets.token_hex(8),
            launched=Service(id=service, driver="fastapi"),
            started_at=0.0,
        )
        self.handles.append(handle)
        return handle

    @staticmethod
    def launch(code: str, **more: object) -> Launch:
        in_one_line = f"exec({textwrap.dedent(code)!r})"  # not every supervisor takes a newline in an argument
        return Launch.model_validate(
            {"argv": (sys.executable, "-I", "-S", "-c", in_one_line), "stop_timeout_s": 5.0, **more}
        )

    async def start(self, code: str, service: str = "svc", **more: object) -> Handle:
        handle = self.handle(service)
        token = await self.supervisor.start(handle, self.launch(code, **more), {})
        return handle.model_copy(update={"token": token})

    async def one(self, handle: Handle) -> ProcessStatus:
        return (await self.supervisor.status([handle]))[handle.service]

    async def pid(self, handle: Handle) -> int:
        """The pid of the main process, which must be alive."""
        pid = (await self.one(handle)).pid
        if pid is None:
            raise AssertionError(f"{handle.service} has no main process")
        return pid

    async def lines(self, handle: Handle, count: int) -> tuple[str, ...]:
        """Wait until the service has written `count` lines, and return them."""
        await self.until(lambda: len(self.supervisor.logs(handle.service, count)) >= count)
        return self.supervisor.logs(handle.service, count)

    async def told_pids(self, handle: Handle, count: int) -> set[int]:
        """The pids, as this machine counts, of the `count` workers that a FAMILY has told of in its log."""
        return {int(line.split()[1]) for line in await self.lines(handle, count)}

    @staticmethod
    async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not true():
                await asyncio.sleep(0.005)

    def living(self, handle: Handle) -> list[int]:
        """Every process that carries the nonce of the handle, told by /proc alone."""
        mark = f"GPUMOD_NONCE={handle.nonce}".encode()
        found = []
        for name in os.listdir("/proc"):  # noqa: PTH208 - a hot path
            with contextlib.suppress(OSError):
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found

    def sweep(self) -> None:
        for handle in self.handles:
            while pids := self.living(handle):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """True for a process that is neither gone nor a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return text[text.rfind(b")") + 2 :][:1] not in (b"Z", b"X", b"x")
