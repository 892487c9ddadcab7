"""The most that a service holds while it starts, seen from beside: its start waits for nothing here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gpumod.engine.machine import Machine
from gpumod.engine.memory import held

LOOK_EVERY_S = 0.25
"""What lasts for less can be missed: a peak that was seen is a lower bound."""


class Peak:
    """The most MiB that were seen over all GPUs; not a number where the driver does not tell, or nothing was seen."""

    mb = math.nan


@asynccontextmanager
async def watching(machine: Machine, service_id: str) -> AsyncIterator[Peak]:
    """Look now and then at what `service_id` holds while the body goes on."""
    peak = Peak()
    looking = asyncio.create_task(_look(machine, service_id, peak))
    try:
        yield peak
    finally:
        looking.cancel()


async def _look(machine: Machine, service_id: str, peak: Peak) -> None:
    with suppress(Exception):  # a probe or a host that breaks is told by those who depend on it
        while True:
            await machine.clock.sleep(LOOK_EVERY_S)
            now = await held(machine, service_id)
            if not now.known:
                peak.mb = math.nan
                return
            if now.total_mb:
                peak.mb = max(now.total_mb, 0 if math.isnan(peak.mb) else peak.mb)
