"""What the engine works with: the ports of one home on one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpumod.domain.errors import UnknownName
from gpumod.domain.footprint import split
from gpumod.domain.machine import GpuProcess, GpuReading
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings, device_list
from gpumod.plugins.offers import DriverOffer, SupervisorOffer
from gpumod.plugins.registry import Plugins
from gpumod.ports import (
    Allocation,
    Capabilities,
    Clock,
    Driver,
    GpuProbe,
    GpuShare,
    Http,
    Launch,
    Local,
    SleepStrategy,
    Store,
    Supervisor,
)
from gpumod.ports.secrets import Secrets
from gpumod.ports.units import KeepsInside

Reading = tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]
"""The GPUs, and the processes on them."""
HOSTED = "host"
"""The `supervisor` of a member's handle: its host's process keeps it."""


def chosen(reading: Reading, devices: Sequence[str]) -> Reading:
    """Of a reading the GPUs that `devices` names, by index or UUID (none named: all), and the processes on them."""
    gpus, processes = reading
    if not devices:
        return reading
    names = {name for gpu in gpus for name in (str(gpu.index), gpu.uuid)}
    lost = [name for name in devices if name not in names]
    if lost:
        raise UnknownName(
            "unknown-gpu",
            f"the setting cuda_devices names a GPU that is not there: {', '.join(lost)}",
            why="there are: " + "; ".join(f"{gpu.index} {gpu.name} {gpu.uuid}".rstrip() for gpu in gpus),
            hint="gpumod settings set cuda_devices INDEX,INDEX (or UUIDs); --default uses all",
        )
    kept = tuple(gpu for gpu in gpus if {str(gpu.index), gpu.uuid} & set(devices))
    indices = {gpu.index for gpu in kept}
    return kept, tuple(process for process in processes if process.gpu in indices)


def _gone(index: int) -> GpuReading:
    return GpuReading(index=index, name="", total_mb=0, used_mb=0, free_mb=0)


@dataclass(frozen=True)
class Machine:
    """One home on one machine. Everything that touches the world is reached from here."""

    home: Path
    home_id: str
    settings: Settings
    store: Store
    plugins: Plugins
    http: Http
    clock: Clock
    local: Local
    secrets: Secrets
    host_locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def driver(self, service: Service) -> Driver:
        """The driver of `service`; raises UnknownName with an install hint when it is not there."""
        return self.plugins.drivers.get(service.driver)

    @property
    def probe(self) -> GpuProbe:
        """What reads the GPUs; raises MachineLacks `no-gpu-probe` where there is none."""
        return self.plugins.gpu_probe(self.settings)

    def strategy(self, service: Service) -> SleepStrategy | None:
        """How `service` sleeps; None when it sleeps by being stopped."""
        if not service.supports_sleep:
            return None
        return self.plugins.sleep_strategies.get(service.driver, service.sleep_mode)

    def supervisor(self, name: str) -> Supervisor:
        """The supervisor called `name`; raises UnknownName."""
        offered = self.plugins.supervisors.offer(name)
        takes_templates = isinstance(offered.offer, SupervisorOffer) and offered.offer.takes_templates
        folders = (tuple(offer.folder for offer in self.plugins.templates),) if takes_templates else ()
        return offered.make(self.home, self.home_id, self.settings, self.clock, *folders)

    def inside(self, name: str) -> KeepsInside | None:
        """The supervisor called `name`, where it is there and its services live in a network of their own."""
        supervisor = self.supervisor(name) if name in self.plugins.supervisors else None
        return supervisor if isinstance(supervisor, KeepsInside) else None

    def boot(self) -> str:
        """The id of this boot, of a container that of its start; empty where the kernel does not tell."""
        return self.local.identity(1) or ""

    def supervisor_name(self, service: Service) -> str:
        """Who keeps `service`: its host, what it was adopted from, what it asks for, or the machine's default."""
        if service.host:
            return HOSTED
        if service.adopted:
            return service.adopted.keeper
        return service.run_with or self._run_with(service.driver) or self.settings.supervisor

    def _run_with(self, driver: str) -> str | None:
        """What keeps the services of `driver` alive, where only one can."""
        offer = self.plugins.drivers.offer(driver).offer if driver in self.plugins.drivers else None
        return offer.run_with if isinstance(offer, DriverOffer) else None

    def check(self, service: Service) -> None:
        """Raise ValueError for a definition that its driver, or what would keep it, does not start as it is.

        Raises UnknownName for a driver that is not there.
        """
        self.driver(service).check(service)
        if inside := self.inside(self.supervisor_name(service)):
            inside.check_service(service, self.settings)

    def launch(self, service: Service, allocation: Allocation, keeper: str | None = None) -> Launch:
        """How `service` is launched by `keeper` (None: whoever keeps it by its definition), as seen from this machine.

        Raises ValueError for what cannot be, as it is defined; UnknownName.
        """
        driver, name = self.driver(service), keeper or self.supervisor_name(service)
        if inside := self.inside(name):
            return inside.launch(driver, service, allocation, self.settings)
        return driver.launch(service, allocation, self.settings)

    def port(self, service: Service, services: Mapping[str, Service], handles: Mapping[str, Handle]) -> int | None:
        """Where `service` answers: its own port, or its host's (as that was started, if it was)."""
        if not service.host:
            return service.port
        if service.host in handles:
            return handles[service.host].launched.port
        host = services.get(service.host)
        return host.port if host else None

    def host_lock(self, host: str) -> asyncio.Lock:
        """Serialises changes of one host's configuration."""
        return self.host_locks.setdefault(host, asyncio.Lock())

    def look_at_gpus(self) -> Reading:
        """One reading of the GPUs that gpumod may use. Blocking.

        Raises what the probe raises, and UnknownName `unknown-gpu` when the setting `cuda_devices` names one that is
        not there.
        """
        return chosen(self.probe.read(), device_list(self.settings.cuda_devices))

    async def read_gpus(self) -> Reading:
        """One reading of the GPUs, off the event loop (a sick driver can block for seconds)."""
        return await asyncio.to_thread(self.look_at_gpus)

    def allocation(
        self,
        service: Service,
        placed_on: Sequence[int],
        vram_mb: int,
        gpus: Sequence[GpuReading],
        foreign_mb: Mapping[int, int],
    ) -> Allocation:
        """Where a service goes and what it may take there: `vram_mb` shared over `placed_on`, as it shares it.

        A card that is not used any more, on which it still is, has nothing to give.
        """
        by_index = {i: _gone(i) for i in placed_on} | {gpu.index: gpu for gpu in gpus}
        totals_mb = {i: gpu.usable_mb for i, gpu in by_index.items()}
        equal_part = self.driver(service).capabilities(service).equal_part and any(totals_mb[i] for i in placed_on)
        share_mb = split(vram_mb, placed_on, totals_mb if equal_part else None)
        shares = tuple(
            GpuShare(
                index=i,
                uuid=by_index[i].uuid,
                total_mb=totals_mb[i],
                budget_mb=max(0, by_index[i].total_mb - self.settings.reserve_mb - foreign_mb.get(i, 0)),
                vram_mb=share_mb.get(i, 0),
            )
            for i in placed_on
        )
        return Allocation(gpus=shares, visible=self._seen(service, placed_on, gpus))

    def _seen(self, service: Service, placed_on: Sequence[int], gpus: Sequence[GpuReading]) -> tuple[int, ...]:
        """The GPUs that its process sees: a host all that can be used when it is started, and its members the same."""
        if service.host is None and not self.hosts_members(service):
            return tuple(placed_on)
        host = self.store.handles().get(service.host or "")
        if host is not None:  # one that an older gpumod started was shown all, also those that failed
            return host.visible or tuple(gpu.index for gpu in gpus)
        return tuple(gpu.index for gpu in gpus if gpu.fault is None)

    def capabilities(self, service: Service) -> Capabilities:
        """What `service` can do; nothing of all that where its driver is missing, or breaks, so that others go on."""
        try:
            return self.driver(service).capabilities(service)
        except Exception:  # noqa: BLE001 - a stranger's driver
            return Capabilities()

    def hosts_members(self, service: Service) -> bool:
        """True when other services live in the process of `service`."""
        return self.driver(service).capabilities(service).hosts_members
