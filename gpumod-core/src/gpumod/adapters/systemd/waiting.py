"""Waiting for the end of a unit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gpumod.adapters.process.proc import Proc, ended, start_ticks
from gpumod.ports import Clock, ProcessStatus


async def until_over(look: Callable[[], Awaitable[ProcessStatus]], clock: Clock, ask_s: float) -> ProcessStatus:
    """Wait, for as long as it takes, until `look` sees an end; return what it saw then.

    The end of a unit's main process is noticed at once; one that has none is looked at every `ask_s` seconds.
    """
    while True:
        status = await look()
        if not status.alive:
            return status
        ticks = start_ticks(status.pid) if status.pid else None
        if status.pid and ticks is not None:
            await ended(Proc(status.pid, ticks), None, clock)
        else:
            await clock.sleep(ask_s)
