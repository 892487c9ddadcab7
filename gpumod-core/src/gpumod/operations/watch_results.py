"""What one look of `gpumod watch` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.operations.results import ChangeResult


class Held(Frozen):
    """GPU memory that a process was seen to hold."""

    pid: int
    vram_mb: Annotated[int, Field(ge=0)]


class WatchParams(Frozen):
    """`held` is what the look before saw, by service: a service that loses its GPU is known by the difference."""

    held: Mapping[str, Held] = {}


class Mended(Frozen):
    """One thing that was done, and why. `change` is None where it could not even be begun (`error`)."""

    what: Literal["boot", "restart", "recover"]
    subject: str
    why: str
    change: ChangeResult | None = None
    error: ErrorInfo | None = None


class WatchResult(Frozen):
    """`notes` are things that are not right and are left alone, each with what a person can do."""

    at: float
    mode: str | None
    whole: bool
    mended: tuple[Mended, ...] = ()
    notes: tuple[str, ...] = ()
    held: Mapping[str, Held] = {}
    interrupted: bool = False


class WatchUnitParams(Frozen):
    """`manager` None: the system's where gpumod keeps services there or runs as root, else the user's."""

    manager: Literal["user", "system"] | None = None


class WatchUnitResult(Frozen):
    """The unit that runs `gpumod watch`. `notes` say what would keep it from doing its work."""

    unit: str
    path: str
    manager: Literal["user", "system"]
    installed: bool
    changed: bool
    notes: tuple[str, ...] = ()
