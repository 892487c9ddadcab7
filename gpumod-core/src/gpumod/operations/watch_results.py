"""What one look of `gpumod watch` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.health import Pulse, Transition
from gpumod.operations.results import ChangeResult, ModeMemberStatus

Manager = Literal["user", "system"]


class Held(Frozen):
    """GPU memory that a process was seen to hold."""

    pid: int
    vram_mb: Annotated[int, Field(ge=0)]


class WatchParams(Frozen):
    """One look; or with `install` or `uninstall` what makes systemd's `manager` (None: the usual one) run it.

    `held` is what the look before gave, by service: a service that loses its GPU is known by the difference. With
    `follow_s` the health of services is followed for so many seconds first (until one ends); `pulses` is what the look
    before knew of it.
    """

    held: Mapping[str, Held] = {}
    pulses: Mapping[str, Pulse] = {}
    follow_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    install: bool = False
    uninstall: bool = False
    manager: Manager | None = None


class Mended(Frozen):
    """One thing that was done, and why. `change` is None where it could not even be begun (`error`)."""

    what: Literal["boot", "restart", "recover", "sleep"]
    subject: str
    why: str
    change: ChangeResult | None = None
    error: ErrorInfo | None = None


def mended_by(what: str, subject: str, why: str, made: ChangeResult | None) -> Mended:
    """What a change has done, or why it could not be."""
    error = made.error if made is not None and made.exit_code else None
    return Mended.model_validate({"what": what, "subject": subject, "why": why, "change": made, "error": error})


class WatchUnitState(Frozen):
    """The unit that runs `gpumod watch`. `notes` say what would keep it from doing its work."""

    name: str
    path: str
    manager: Manager
    installed: bool
    changed: bool
    notes: tuple[str, ...] = ()


class WatchResult(Frozen):
    """`wrong` are members that keep the mode from being whole. `held` and `pulses` are for the next look. `transitions`
    are changes of health since the last one. `notes` are things that are not right and are left alone, each with what a
    person can do. `ok` is False where a person has to look: the mode is not whole, or a run is open, and nobody is at
    work on it. `unit` is set, and nothing was looked at, where that was asked for."""

    at: float
    mode: str | None
    whole: bool | None
    wrong: tuple[ModeMemberStatus, ...] = ()
    ok: bool = True
    mended: tuple[Mended, ...] = ()
    notes: tuple[str, ...] = ()
    transitions: tuple[Transition, ...] = ()
    held: Mapping[str, Held] = {}
    pulses: Mapping[str, Pulse] = {}
    interrupted: bool = False
    unit: WatchUnitState | None = None
