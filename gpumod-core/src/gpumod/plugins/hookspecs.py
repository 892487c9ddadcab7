"""The eight hooks. Every one collects; none is `firstresult`. A hook offers records; behaviour lives on the objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from gpumod.plugins.offers import (
        DriverOffer,
        GpuProbeOffer,
        ModelInfoSourceOffer,
        PresetsOffer,
        SleepStrategyOffer,
        SupervisorOffer,
        TemplatesOffer,
        VramEstimatorOffer,
    )

PROJECT = "gpumod"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gpumod_drivers() -> Iterable[DriverOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer drivers. A service chooses one by its `driver`."""


@hookspec
def gpumod_sleep_strategies() -> Iterable[SleepStrategyOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer sleep strategies. A service chooses one by its driver and `sleep_mode`."""


@hookspec
def gpumod_vram_estimators() -> Iterable[VramEstimatorOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer VRAM estimators. All that apply are asked; the most trustworthy answer is taken, the rest kept as why."""


@hookspec
def gpumod_model_info_sources() -> Iterable[ModelInfoSourceOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer sources of model information, merged field by field with provenance."""


@hookspec
def gpumod_supervisors() -> Iterable[SupervisorOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer supervisors. A service chooses one by `run_with`, else the machine's default."""


@hookspec
def gpumod_gpu_probes() -> Iterable[GpuProbeOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer GPU probes. The setting `gpu_probe` chooses, else the first that is available."""


@hookspec
def gpumod_presets() -> Iterable[PresetsOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer folders of YAML presets. They are merged; collisions are reported."""


@hookspec
def gpumod_templates() -> Iterable[TemplatesOffer]:  # type: ignore[empty-body]  # a hookspec has no body
    """Offer Jinja2 templates. The user's folder wins, then the service's own, then these."""
