"""A start as its service makes it: what it reads, fetches or says meanwhile, and the time that this gives it.

`startup_timeout` bounds a start that shows nothing. A slow disk or a download is no reason to give up: while the
service reads its model, or a file that it fetches grows, the clock of its start stands still.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gpumod.domain.machine import LoadSigns
from gpumod.domain.plan import Step
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.context import RunContext
from gpumod.engine.logs import read_log
from gpumod.engine.machine import Machine
from gpumod.ports import Clock

LOOK_EVERY_S = 1.0
LEAST_MB_PER_S = 1.0
"""Less is no loading: every process reads something now and then."""
MOST_READING = 10
"""Reading gives a start at most so many times its `startup_timeout`; a download gives it as long as it goes on."""
TELL_EVERY_S = 5.0
LINE_LENGTH = 100


class StartClock:
    """A clock that stands still while a start gets on; it sleeps like the one that it is made of."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.stood_s = 0.0

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic() - self.stood_s

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class Loading:
    """A start under way. `fetched`: some of its time was a download's, and says nothing of the next start.
    `limit` bounds it by the loop's own time, and is put off as long as the clock stands still."""

    def __init__(self, machine: Machine) -> None:
        self.clock = StartClock(machine.clock)
        self.fetched = False
        self.limit: asyncio.Timeout | None = None

    def stand(self, seconds: float) -> None:
        """The last `seconds` do not count."""
        self.clock.stood_s += seconds
        when = self.limit.when() if self.limit is not None else None
        if self.limit is not None and when is not None:
            self.limit.reschedule(when + seconds)


@asynccontextmanager
async def loading(ctx: RunContext, step: Step, service: Service) -> AsyncIterator[Loading]:
    """Look now and then at how `service` loads, and tell it, while the body starts it by the clock that this gives.

    A time that was asked for (`--timeout`) is kept as it is.
    """
    load = Loading(ctx.machine)
    looking = asyncio.create_task(_look(ctx, step, service, load))
    try:
        yield load
    finally:
        looking.cancel()


async def _look(ctx: RunContext, step: Step, service: Service, load: Loading) -> None:
    clock = ctx.machine.clock
    sight = Sight(ctx.machine, service.id)
    most_s = MOST_READING * service.startup_timeout
    told_s, looked_s = -math.inf, clock.monotonic()
    while True:
        await clock.sleep(LOOK_EVERY_S)
        moved, text = "", ""
        with suppress(Exception):  # what cannot be looked at now shows nothing; the next look may
            moved, text = await sight.look()
        now_s = clock.monotonic()
        load.fetched = load.fetched or moved == "fetches"
        if ctx.timeout_s is None and (moved == "fetches" or (moved == "reads" and load.clock.stood_s < most_s)):
            load.stand(now_s - looked_s)
        looked_s = now_s
        if text and now_s - told_s >= TELL_EVERY_S:
            told_s = now_s
            ctx.waiting(step, text)


class Sight:
    """Looks at one service again and again: what it did since the last look, and in words what it does."""

    def __init__(self, machine: Machine, service_id: str) -> None:
        self._machine = machine
        self._service = service_id
        self._before: LoadSigns | None = None
        self._at_s = 0.0

    async def look(self) -> tuple[str, str]:
        """`fetches`, `reads` or "", and the words; none where it has no process yet, or says nothing."""
        machine = self._machine
        handles = machine.store.handles()
        handle = handles.get(self._service)
        owner = handles.get(handle.launched.host or handle.service) if handle else None
        if handle is None or owner is None:
            return "", ""
        status = (await machine.supervisor(owner.supervisor).status([owner]))[owner.service]
        signs = await asyncio.to_thread(machine.local.load_signs, status.pids)
        now_s = machine.clock.monotonic()
        before, least_mb = self._before or signs, LEAST_MB_PER_S * (now_s - self._at_s)
        self._before, self._at_s = signs, now_s
        name = _growing(before, signs)
        if name:
            return "fetches", f"it fetches {name}: {signs.downloads[name]:.0f} MiB so far"
        if signs.read_mb - before.read_mb >= max(least_mb, LEAST_MB_PER_S / 10):
            return "reads", f"it reads its model: {signs.read_mb:.0f} MiB so far"
        return "", await asyncio.to_thread(self._said, owner)

    def _said(self, owner: Handle) -> str:
        """The last line of its log."""
        lines = read_log(self._machine, owner, 1)
        line = lines[-1].strip() if lines else ""
        return f"it says: {line[:LINE_LENGTH]}" if line else ""


def _growing(before: LoadSigns, now: LoadSigns) -> str | None:
    grown = {name: mb - before.downloads.get(name, 0.0) for name, mb in now.downloads.items()}
    most = max(grown, key=lambda name: grown[name], default=None)
    return most if most is not None and grown[most] > 0 else None
