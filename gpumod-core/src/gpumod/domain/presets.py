"""Presets as values: definitions that were read from files, with where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.mode import Mode
from gpumod.domain.service import Service


class ServicePreset(Frozen):
    """A service that a file defines; `distribution` offered the folder."""

    value: Service
    source: Path
    distribution: str


class ModePreset(Frozen):
    """A mode that a file defines."""

    value: Mode
    source: Path
    distribution: str


class PresetCatalogue(Frozen):
    """Everything that the preset folders hold, by id, and what was wrong with the files that were skipped."""

    services: Mapping[str, ServicePreset] = {}
    modes: Mapping[str, ModePreset] = {}
    problems: tuple[ErrorInfo, ...] = ()
