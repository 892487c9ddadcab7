"""Number formats that services ask for, and cards that do not compute in them."""

from __future__ import annotations

from collections.abc import Iterable

from gpumod.domain.cards import capability_of, computes
from gpumod.domain.machine import GpuProfile, GpuReading
from gpumod.domain.service import Service
from gpumod.ports import Driver, FormatNeed, NeedsFormats

Card = GpuReading | GpuProfile


def needs_of(driver: Driver, service: Service) -> tuple[FormatNeed, ...]:
    """What the options of `service` ask of its cards."""
    return tuple(driver.formats(service)) if isinstance(driver, NeedsFormats) else ()


def lacking(need: FormatNeed, service: Service, gpus: Iterable[Card]) -> tuple[Card, ...]:
    """The cards on which `service` may come to be that do not compute in the format; unknown ones are left out."""
    seats = (gpu for gpu in gpus if service.gpus == "any" or gpu.index in service.gpus)
    return tuple(gpu for gpu in seats if computes(capability_of(gpu), need.number_format) is False)
