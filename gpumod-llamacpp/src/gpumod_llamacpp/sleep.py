"""How a member of a router sleeps: it is unloaded and stays configured."""

from __future__ import annotations

import contextlib

from gpumod.api import Clock, Failed, Http, Service
from gpumod_llamacpp import router


class RouterSleep:
    """Sleep unloads, wake loads. The member's own process ends with it, so nothing is kept."""

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `unload-failed` or `unload-timeout`."""
        await router.unload(service, port, http, clock)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `load-failed`, `load-timeout` or `unknown-member`. One that could not be loaded sleeps on."""
        try:
            await router.load(service, port, http, clock)
        except Failed:
            with contextlib.suppress(Failed):
                await router.unload(service, port, http, clock)
            raise
