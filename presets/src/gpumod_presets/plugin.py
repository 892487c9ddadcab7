"""Offers this distribution's folder of presets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumod.api import PresetsOffer, hookimpl


@hookimpl
def gpumod_presets() -> Iterable[PresetsOffer]:
    """The presets beside this file."""
    summary = "services and modes for code, retrieval and speech"
    return [PresetsOffer(name="presets", summary=summary, folder=Path(__file__).parent)]
