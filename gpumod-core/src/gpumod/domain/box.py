"""A box: everything that is defined on one machine (services, modes, settings), as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumod.domain.errors import ErrorInfo
from gpumod.domain.mode import Mode
from gpumod.domain.service import Service


@dataclass(frozen=True)
class Box:
    """Definitions by id, and settings as the text that is stored (None: the default)."""

    services: Mapping[str, Service] = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)
    settings: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadBox:
    """What could be read of a box, and the `problems` of its text.

    `unread` are the ids of services that it may define and that could not be read; None: not even their ids.
    """

    box: Box
    problems: tuple[ErrorInfo, ...] = ()
    unread: frozenset[str] | None = frozenset()

    @property
    def misses_services(self) -> bool:
        return self.unread is None or bool(self.unread)
