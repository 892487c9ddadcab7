"""A box: everything that is defined on one machine (services, modes, settings), as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumod.domain.mode import Mode
from gpumod.domain.service import Service


@dataclass(frozen=True)
class Box:
    """Definitions by id, and settings as the text that is stored (None: the default)."""

    services: Mapping[str, Service] = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)
    settings: Mapping[str, str | None] = field(default_factory=dict)
