"""No driver may keep a run for ever: its sleep, wake, load or unload is given up after a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gpumod.domain.errors import Failed
from gpumod.domain.service import Service
from gpumod.engine.machine import Machine

GRACE_S = 5.0
"""A driver that keeps its time itself, and says more of it, is given so much longer."""


def wake_patience_s(machine: Machine, service: Service, timeout_s: float | None = None) -> float:
    """How long a wake may take: `timeout_s` where it is asked for; else as long as a start, which some wakes are."""
    if timeout_s:
        return timeout_s + GRACE_S
    return max(machine.settings.driver_timeout_s, service.startup_timeout + GRACE_S)


@asynccontextmanager
async def within(seconds: float, service: Service, verb: str) -> AsyncIterator[asyncio.Timeout]:
    """Bound what a driver does inside; gives the limit, which can be put off.

    Raises Failed `VERB-timeout` (it may still come about) when time is out.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield limit
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise Failed(
            f"{verb}-timeout",
            f"{service.id} did not {verb} within {seconds:g} s",
            why=f"the driver {service.driver} did not return",
            hint="where it needs longer: gpumod settings set driver_timeout_s SECONDS (a start: its startup_timeout)",
            service=service.id,
        ) from error
