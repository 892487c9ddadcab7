"""The records that hooks return. Each names a thing and carries a factory that imports the heavy parts when used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpumod.ports import Driver, GpuProbe, ModelInfoSource, SleepStrategy, Supervisor, VramEstimator

PLUGIN_API = 1
"""The plugin API number. A plugin made for another number is named and not loaded."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What every offer has. `api` is the number of the plugin API that it was written for."""

    name: str
    summary: str
    api: int = PLUGIN_API


@dataclass(frozen=True, kw_only=True)
class DriverOffer(Offer):
    """`run_with` is the supervisor that alone can keep services of this driver alive, where there is just one."""

    factory: Callable[[], Driver]
    run_with: str | None = None


@dataclass(frozen=True, kw_only=True)
class SleepStrategyOffer(Offer):
    """`name` is the level; `drivers` are the drivers whose services it serves."""

    drivers: tuple[str, ...]
    factory: Callable[[], SleepStrategy]


@dataclass(frozen=True, kw_only=True)
class VramEstimatorOffer(Offer):
    """`drivers` are the drivers whose services it can estimate; empty means all."""

    drivers: tuple[str, ...] = ()
    factory: Callable[[], VramEstimator]


@dataclass(frozen=True, kw_only=True)
class ModelInfoSourceOffer(Offer):
    """Sources of a lower `order` are asked first, and win field by field."""

    order: int = 100
    factory: Callable[[], ModelInfoSource]


@dataclass(frozen=True, kw_only=True)
class SupervisorOffer(Offer):
    """`factory` takes the home folder, the id of the home, the settings and the clock; and, where `takes_templates`,
    the folders of templates that plugins offer. `adopts`: it keeps what was adopted alone, and nobody chooses it."""

    factory: Callable[..., Supervisor]
    takes_templates: bool = False
    adopts: bool = False


@dataclass(frozen=True, kw_only=True)
class GpuProbeOffer(Offer):
    """`available` says why the probe cannot be used with these settings, or None; it may raise a GpumodError instead,
    which is shown where just this probe is asked for. Lower `order` is tried first."""

    order: int = 100
    available: Callable[[Any], str | None]
    factory: Callable[[Any], GpuProbe]
    create_machine: Callable[..., dict[str, str]] | None = None
    """Makes a simulated machine: (folder, [(name, MiB), ...]) -> settings of a home that uses it."""


@dataclass(frozen=True, kw_only=True)
class PresetsOffer(Offer):
    """A folder of YAML presets."""

    folder: Path


@dataclass(frozen=True, kw_only=True)
class TemplatesOffer(Offer):
    """A folder of Jinja2 templates."""

    folder: Path
