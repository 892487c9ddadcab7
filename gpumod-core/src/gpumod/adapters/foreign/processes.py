"""Adopted processes: watched, and stopped when that is asked for. Whoever started one starts it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpumod.adapters.foreign.units import not_adopted, not_ours
from gpumod.adapters.launches import cannot_kill, refuse_anothers
from gpumod.adapters.process.proc import Proc, boot_id, ended, send, start_ticks, trees
from gpumod.domain.errors import Failed
from gpumod.domain.run import Handle
from gpumod.ports import Clock, Launch, LaunchFile, ProcessStatus

KILL_TIMEOUT_S = 10.0
LEAVE_S = 0.5
"""So long what a process started has to end after it."""


class AdoptedProcesses:
    """Implements :class:`gpumod.ports.Supervisor` for processes that somebody else started."""

    name = "adopted-process"

    def __init__(self, home: Path, clock: Clock) -> None:
        self._home = home
        self._clock = clock

    def check(self, handle: Handle, launch: Launch) -> NoReturn:
        """Raise Failed `cannot-start-adopted`: how it was started, and by whom, is not known."""
        raise Failed(
            "cannot-start-adopted",
            f"{handle.service} was adopted as a process, so gpumod can stop it but not start it",
            why=f"its process {_pid(handle)} is gone, and whoever started that knows how",
            hint=f"start it by hand, then: gpumod service release {handle.service}; gpumod service adopt PID",
        )

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks `anothers-home` where root would end what another user's home names."""
        for handle in handles:
            refuse_anothers(self._home, handle.service, stop=True)

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Raises what :meth:`check` raises."""
        self.check(handle, launch)

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """End the process by its signal, after its time by SIGKILL, and then what it started and left.

        Raises Failed `cannot-kill`, MachineLacks `anothers-home`.
        """
        refuse_anothers(self._home, handle.service, stop=True)
        main = _main(handle)
        if main is None:
            return
        below = [Proc(pid, ticks) for pid in trees([main.pid])[main.pid] if (ticks := start_ticks(pid)) is not None]
        try:
            send(main, signal.Signals[launch.stop_signal])
            if not await ended(main, launch.stop_timeout_s, self._clock):
                send(main, signal.SIGKILL)
            for process in below:
                if not await ended(process, LEAVE_S, self._clock):
                    send(process, signal.SIGKILL)
        except PermissionError:
            raise cannot_kill(handle.service, [main.pid]) from None
        left = [p.pid for p in (main, *below) if not await ended(p, KILL_TIMEOUT_S, self._clock)]
        if left:
            raise cannot_kill(handle.service, left)

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each, by service id: of the very process that was adopted, never of one with its number."""
        found = {handle.service: _main(handle) for handle in handles}
        below = trees({main.pid for main in found.values() if main})
        return {service: _status(main, below) for service, main in found.items()}

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the process has ended; return the status then."""
        while (main := _main(handle)) is not None:
            await ended(main, None, self._clock)
        return _status(None, {})

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """None: where it writes is its own affair."""
        return ()

    def log_path(self, service: str) -> None:
        """None, as above."""

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Refused: nothing of somebody else's is written."""
        raise not_ours(service)


def identity_of(pid: int) -> str | None:
    """What no other process shares: the boot and the start time; None for one that is gone."""
    ticks = start_ticks(pid)
    return None if ticks is None else f"{boot_id()} {ticks}"


def _pid(handle: Handle) -> int:
    adopted = handle.launched.adopted
    if adopted is None or adopted.pid is None:
        raise not_adopted(handle.service, AdoptedProcesses.name)
    return adopted.pid


def _main(handle: Handle) -> Proc | None:
    """The adopted process, if it lives."""
    pid, adopted = _pid(handle), handle.launched.adopted
    boot, _, ticks = (adopted.identity if adopted else "").partition(" ")
    if boot != boot_id() or not ticks.isdigit():
        return None
    main = Proc(pid, int(ticks))
    return main if main.alive else None


def _status(main: Proc | None, below: Mapping[int, Sequence[int]]) -> ProcessStatus:
    if main is None:
        return ProcessStatus(alive=False, detail="the process that was adopted is gone")
    pids = (main.pid, *(pid for pid in below.get(main.pid, ()) if start_ticks(pid) is not None))
    return ProcessStatus(alive=True, pid=main.pid, pids=pids, started_at=_epoch(main.started), token={"pid": main.pid})


def _epoch(ticks: int) -> float:
    """Clock ticks since boot, in seconds since the epoch."""
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")
