"""What is: one snapshot of GPUs, processes, host RAM and services."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.base import Frozen
from gpumod.domain.service import Service
from gpumod.domain.states import State


class GpuReading(Frozen):
    """One GPU now, in MiB. `free_mb` is the driver's own word; it is not total minus used where memory is reserved."""

    index: int
    name: str
    uuid: str = ""
    total_mb: int
    used_mb: int
    free_mb: int


class GpuProcess(Frozen):
    """A process on a GPU. `vram_mb` is None where the driver does not tell; `service` is ours, or None (foreign)."""

    pid: int
    name: str
    gpu: int
    vram_mb: int | None
    service: str | None = None


class ServiceReading(Frozen):
    """One service as its supervisor and its own HTTP surface tell it.

    `vram_mb` maps GPU index to MiB held now; `gpus` is where it was placed; `launched` the definition that it was
    started with (None when it is not ours or not up), and `altered` the alternative that had changed that, in words;
    `detail` says why it is unhealthy or failed. `adopted` is for
    planners alone so far: nothing that gpumod did not start itself is read as a service yet.
    """

    service: str
    state: State
    sleep_level: str | None = None
    health_ok: bool | None = None
    pid: int | None = None
    uptime_s: float | None = None
    vram_mb: Mapping[int, int] = {}
    gpus: tuple[int, ...] = ()
    launched: Service | None = None
    altered: str = ""
    adopted: bool = False
    detail: str = ""


class HostSnapshot(Frozen):
    """The machine at one instant. `at` is seconds since the epoch."""

    at: float
    gpus: tuple[GpuReading, ...]
    processes: tuple[GpuProcess, ...] = ()
    services: Mapping[str, ServiceReading] = {}
    ram_total_mb: int
    ram_available_mb: int

    def reading(self, service: str) -> ServiceReading:
        """The reading of `service`; one that was never seen is stopped."""
        return self.services.get(service) or ServiceReading(service=service, state=State.STOPPED)

    def gpu(self, index: int) -> GpuReading:
        for gpu in self.gpus:
            if gpu.index == index:
                return gpu
        raise KeyError(index)

    def managed_mb(self, gpu: int) -> int:
        """MiB on `gpu` held by services."""
        return sum(reading.vram_mb.get(gpu, 0) for reading in self.services.values())

    def foreign_mb(self, gpu: int) -> int:
        """MiB on `gpu` held by what gpumod does not manage: other processes, and memory nobody owns."""
        return max(0, self.gpu(gpu).used_mb - self.managed_mb(gpu))

    def unattributed_mb(self, gpu: int) -> int:
        """MiB in use on `gpu` that belong to no process the driver names."""
        named = sum(p.vram_mb or 0 for p in self.processes if p.gpu == gpu)
        return max(0, self.gpu(gpu).used_mb - named)
