"""Presets as values: definitions that were read from files, with where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from gpumod.domain.errors import ErrorInfo
from gpumod.domain.mode import Mode
from gpumod.domain.service import Service

T = TypeVar("T", Service, Mode)


@dataclass(frozen=True)
class PresetEntry(Generic[T]):
    """One preset: what it defines, in which file, and which distribution brought that."""

    value: T
    path: Path
    distribution: str


@dataclass(frozen=True)
class PresetCatalogue:
    """Every preset that is good, by id, and what is wrong with the others."""

    services: Mapping[str, PresetEntry[Service]]
    modes: Mapping[str, PresetEntry[Mode]]
    problems: tuple[ErrorInfo, ...]
