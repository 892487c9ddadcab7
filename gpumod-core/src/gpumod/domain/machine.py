"""What is: one snapshot of GPUs, processes, host RAM and services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.service import Service
from gpumod.domain.states import State


class GpuReading(Frozen):
    """One GPU now, in MiB: `total_mb` is `used_mb` (by processes), `free_mb` (the driver's own word) and `reserved_mb`.

    `reserved_mb` is what the driver keeps for itself, where it tells. `per_process` is False where the driver does not
    tell what each process holds (WSL, some virtual GPUs). `fault` says why the card cannot be used (it is lost); its
    numbers then say that nothing is free. `architecture` and `compute_capability` are empty where they are not known.
    """

    index: int
    name: str
    uuid: str = ""
    total_mb: int
    used_mb: int
    free_mb: int
    reserved_mb: int = 0
    per_process: bool = True
    architecture: str = ""
    compute_capability: str = ""
    fault: ErrorInfo | None = None

    @property
    def usable_mb(self) -> int:
        """All that programs can have: what CUDA, and so a share of the card, counts as its total."""
        return self.total_mb - self.reserved_mb


class GpuProfile(Frozen):
    """A GPU as it was when the home was made ready (`gpumod init`); the last two are empty where they are not known."""

    index: int
    name: str
    uuid: str
    total_mb: int
    architecture: str = ""
    compute_capability: str = ""


class GpuProcess(Frozen):
    """A process on a GPU. `vram_mb` is None where the driver does not tell; `service` is ours, or None (foreign)."""

    pid: int
    name: str
    gpu: int
    vram_mb: int | None
    service: str | None = None


class ServiceReading(Frozen):
    """One service as its supervisor and its own HTTP surface tell it.

    `vram_mb` maps GPU index to MiB held now, and `device_mb` the part of it that no process was told for: it is taken
    from the difference that the service made to the whole device. `gpus` is where it was placed; `launched` the
    definition that it was started with (None when it is not ours or not up), and `altered` the alternative that had
    changed that, in words; `detail` says why it is unhealthy or failed. `adopted`: somebody else set it up, so a switch
    leaves it up unless its target names it.
    """

    service: str
    state: State
    sleep_level: str | None = None
    health_ok: bool | None = None
    pid: int | None = None
    uptime_s: float | None = None
    vram_mb: Mapping[int, int] = {}
    device_mb: Mapping[int, int] = {}
    gpus: tuple[int, ...] = ()
    launched: Service | None = None
    altered: str = ""
    adopted: bool = False
    detail: str = ""


class Finding(Frozen):
    """One thing that `gpumod doctor` shows. A warning and a problem say in `hint` how to mend it."""

    name: str
    level: Literal["ok", "warning", "problem"] = "ok"
    message: str
    hint: str = ""


class Ram(Frozen):
    total_mb: int
    available_mb: int


class PortUser(Frozen):
    """Who listens on a port; `pid` and `name` are None and "" where the kernel does not tell.

    Of one that gpumod started `service` and `home_id` say whose it is, and `home` in which folder that home is, where
    that can be told.
    """

    pid: int | None = None
    name: str = ""
    service: str = ""
    home_id: str = ""
    home: str = ""

    def __str__(self) -> str:
        who = f"{self.name} (pid {self.pid})" if self.pid else self.name or "another process"
        home = self.home or f"with the id {self.home_id}"
        return f"{who}, service {self.service} of the gpumod home {home}" if self.service else who


class LoadSigns(Frozen):
    """What some processes have done so far that shows how they load a model: bytes that they read from files, and
    `downloads`: files that they have open and that are not whole yet, by name (all in MiB)."""

    read_mb: float = 0.0
    downloads: Mapping[str, float] = {}


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
        """MiB on `gpu` held by what gpumod does not manage: other processes, the driver, and memory nobody owns."""
        card = self.gpu(gpu)
        return max(0, card.used_mb + card.reserved_mb - self.managed_mb(gpu))

    def unattributed_mb(self, gpu: int) -> int:
        """MiB in use on `gpu` that belong to no process the driver names, and to no service by its difference."""
        ours = sum(reading.device_mb.get(gpu, 0) for reading in self.services.values())
        return max(0, untold_mb(self.gpu(gpu), self.processes) - ours)


def untold_mb(gpu: GpuReading, processes: Iterable[GpuProcess]) -> int:
    """MiB in use on `gpu` for which the driver names no process, or not how much it holds."""
    return max(0, gpu.used_mb - sum(p.vram_mb or 0 for p in processes if p.gpu == gpu.index))
