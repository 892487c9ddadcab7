"""Footprints: what each service takes, from measurements, its options, estimators and its own declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpumod.domain.errors import GpumodError
from gpumod.domain.estimates import choose
from gpumod.domain.footprint import Estimate, Footprint
from gpumod.domain.machine import GpuReading
from gpumod.domain.measure import sample_key
from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.engine.machine import Machine
from gpumod.ports import Capabilities, OffersVariants


def footprints(
    machine: Machine, services: Mapping[str, Service], gpus: Sequence[GpuReading]
) -> Mapping[str, Footprint]:
    """The footprint of every service on these GPUs. A service whose driver is missing has its declared numbers."""
    samples = machine.store.samples()
    return {s.id: footprint(machine, s, gpus, samples.get((s.id, key_of(s, gpus)))) for s in services.values()}


def key_of(service: Service, gpus: Sequence[GpuReading]) -> str:
    """The key of this service's measurements on these GPUs."""
    return sample_key(service, [gpu.name for gpu in gpus])


def footprint(
    machine: Machine, service: Service, gpus: Sequence[GpuReading], samples: Mapping[str, float] | None
) -> Footprint:
    """One service's footprint: `samples` are its measurements by kind, None when it was never measured."""
    try:
        capabilities = machine.driver(service).capabilities(service)
        strategy = machine.strategy(service)
    except (GpumodError, ValueError):
        capabilities, strategy = Capabilities(), None
    estimates = _estimates(machine, service, gpus)
    vram_mb = service.vram_mb
    return choose(
        service,
        estimates,
        samples,
        exclusive_start=capabilities.exclusive_start,
        sleep_residue_mb=strategy.residue_mb(service, vram_mb) if strategy else None,
        sleep_ram_mb=strategy.ram_mb(service, vram_mb) if strategy else None,
    )


def _estimates(machine: Machine, service: Service, gpus: Sequence[GpuReading]) -> Sequence[Estimate]:
    wanted = gpus if service.gpus == "any" else [gpu for gpu in gpus if gpu.index in service.gpus]
    total_mb = min((gpu.total_mb for gpu in wanted), default=0)
    if not total_mb:
        return ()
    info = machine.plugins.model_info(service, machine.settings)
    return machine.plugins.estimate(service, total_mb, info)


def variants(machine: Machine, services: Mapping[str, Service]) -> Mapping[str, tuple[Variant, ...]]:
    """Other ways to run each service that its driver offers."""
    offered: dict[str, tuple[Variant, ...]] = {}
    for service in services.values():
        try:
            driver = machine.driver(service)
            if isinstance(driver, OffersVariants):
                offered[service.id] = driver.variants(service)
        except (GpumodError, ValueError):
            continue
    return offered
