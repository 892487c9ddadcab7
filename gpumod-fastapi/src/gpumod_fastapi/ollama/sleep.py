"""How a model of an Ollama sleeps: it is unloaded."""

from __future__ import annotations

from gpumod.api import Clock, Http, Service
from gpumod_fastapi.ollama import web


class UnloadSleep:
    """Sleep unloads, wake loads. The model's own process ends with it, so nothing is kept."""

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `unload-failed` or `unload-timeout`."""
        await web.unload(service, port, http, clock)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        """Raises Failed `load-failed`, `load-timeout` or `unknown-member`."""
        await web.load(service, port, http, clock)
