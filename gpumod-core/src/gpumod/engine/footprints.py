"""Footprints: what each service takes, from measurements, its options, estimators and its own declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from gpumod.domain.estimates import choose
from gpumod.domain.footprint import Estimate, Footprint, Source
from gpumod.domain.machine import GpuReading, HostSnapshot
from gpumod.domain.measure import sample_key
from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.engine.machine import Machine
from gpumod.ports import OffersVariants

Samples = Mapping[tuple[str, str], Mapping[str, float]]
"""Measurements by kind, for a service's id and the key of its launch (:func:`key_of`)."""


def cards_of(service: Service, gpus: Sequence[GpuReading], placed_on: Sequence[int] = ()) -> Sequence[GpuReading]:
    """The cards that `service` runs on: those where it was placed, else those that it names.

    Where it may go to any: one, if all are of one kind, so that it does not matter which; else all of them.
    """
    named = placed_on or (() if service.gpus == "any" else service.gpus)
    if named:
        return [gpu for gpu in gpus if gpu.index in named]
    return gpus[:1] if len({(gpu.name, gpu.total_mb) for gpu in gpus}) == 1 else gpus


def key_of(service: Service, gpus: Sequence[GpuReading], placed_on: Sequence[int] = ()) -> str:
    """The key of this service's measurements on the cards that it runs on (:func:`cards_of`).

    What was measured on one card is not believed of a card of another kind: a service that may go to any of several
    kinds is estimated until it is placed.
    """
    return sample_key(service, [gpu.name for gpu in cards_of(service, gpus, placed_on)])


def placed_on(snapshot: HostSnapshot, service: str) -> tuple[int, ...]:
    """The GPUs that a service is on now; none where it is down and may be placed anew."""
    reading = snapshot.reading(service)
    gone = reading.state is State.STOPPED or (reading.state is State.FAILED and not any(reading.vram_mb.values()))
    return () if gone else reading.gpus


def footprint(
    machine: Machine,
    service: Service,
    gpus: Sequence[GpuReading],
    samples: Samples | None = None,
    placed_on: Sequence[int] = (),
) -> Footprint:
    """One service's footprint; without `samples` what it would have if it was never measured.

    A service whose driver is missing, or breaks, has its declared numbers, and asleep it is taken to keep them all.
    """
    cards, can = cards_of(service, gpus, placed_on), machine.capabilities(service)
    spans = placed_on or (() if service.gpus == "any" else service.gpus)
    equal_part = can.equal_part and len(spans) > 1
    estimates = _estimates(machine, service, cards, equal_part=equal_part)
    measured = (samples or {}).get((service.id, key_of(service, gpus, placed_on)))
    # where only the device's difference tells what a service takes, nothing else may change meanwhile
    alone = any(not gpu.per_process for gpu in cards_of(service, gpus, placed_on))
    residue_mb, ram_mb = _asleep(machine, service, choose(service, estimates, measured).vram_mb)
    chosen = choose(
        service,
        estimates,
        measured,
        exclusive_start=alone or can.exclusive_start,
        sleep_residue_mb=residue_mb,
        sleep_ram_mb=ram_mb,
    )
    return chosen.model_copy(update={"equal_part": True}) if equal_part else chosen


def _asleep(machine: Machine, service: Service, vram_mb: int) -> tuple[int | None, int | None]:
    """MiB of VRAM and of host RAM that its sleep strategy predicts asleep, of `vram_mb` awake; None: not known."""
    try:
        strategy = machine.strategy(service)
        return (strategy.residue_mb(service, vram_mb), strategy.ram_mb(service, vram_mb)) if strategy else (None, None)
    except Exception:  # noqa: BLE001 - as above
        return None, None


def _estimates(
    machine: Machine, service: Service, cards: Sequence[GpuReading], *, equal_part: bool
) -> Sequence[Estimate]:
    """What estimators say of the largest of `cards`: a share of the card is never understated.

    Where it takes an equal part of each, a part of their mean is in sum what it takes of them. A card that is lost has
    no size any more, and says nothing.
    """
    totals_mb = [gpu.usable_mb for gpu in cards if gpu.usable_mb > 0] or [0]
    total_mb = -(-sum(totals_mb) // len(totals_mb)) if equal_part else max(totals_mb)
    if not total_mb:
        return ()
    info = machine.plugins.model_info(service, machine.settings)
    estimates = machine.plugins.estimate(service, total_mb, info)
    if not equal_part or min(totals_mb) == max(totals_mb) or any(e.source is Source.EXPLICIT for e in estimates):
        return estimates
    return (*estimates, _stretched(service, totals_mb))


def _stretched(service: Service, totals_mb: Sequence[int]) -> Estimate:
    """What a service takes of cards of different sizes, if the smallest has to give an even share of what it declares.

    The weights are shared evenly, so less of the smallest would not do; of the others it takes as large a part.
    """
    smallest_mb, count = min(totals_mb), len(totals_mb)
    whole_mb = count * smallest_mb
    peak_mb = service.start_peak_mb
    return Estimate(
        estimator="cards",
        vram_mb=-(-service.vram_mb * sum(totals_mb) // whole_mb),
        start_peak_mb=None if peak_mb is None else -(-peak_mb * sum(totals_mb) // whole_mb),
        why=f"{-(-service.vram_mb // count)} MiB of the card with {smallest_mb} MiB, and the same part of each other",
    )


def variants(machine: Machine, services: Mapping[str, Service]) -> Mapping[str, tuple[Variant, ...]]:
    """Other ways to run each service that its driver offers."""
    offered: dict[str, tuple[Variant, ...]] = {}
    for service in services.values():
        with suppress(Exception):  # a driver that is missing or breaks offers nothing
            driver = machine.driver(service)
            if isinstance(driver, OffersVariants):
                offered[service.id] = tuple(driver.variants(service))
    return offered
