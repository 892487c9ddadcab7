"""The system's clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Time as the machine tells it, in seconds. Implements :class:`gpumod.ports.Clock`."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
