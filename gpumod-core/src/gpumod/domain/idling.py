"""Idle time of services: when it begins, and who may sleep for it. Pure."""

from __future__ import annotations

from typing import Protocol

from gpumod.domain.activity import Activity
from gpumod.domain.base import Frozen, Id
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service
from gpumod.domain.states import ALIVE, State


class Use(Frozen):
    """The use of a service as far as it was seen. `run` tells the process that served from every other.

    `served` is the server's own counter at the last look; `used_at` when it was last in use, as far as is known, and
    `seen_at` when it was looked at last (both in seconds since the epoch).
    """

    service: Id
    run: str
    served: float | None = None
    used_at: float
    seen_at: float


class KeepsUses(Protocol):
    """The part of a store that keeps one :class:`Use` for each service. `put_uses` replaces them all."""

    def uses(self) -> dict[str, Use]: ...
    def put_uses(self, uses: dict[str, Use]) -> None: ...


def seen(before: Use | None, told: Activity, *, service: str, run: str, awake_since: float, now: float) -> Use:
    """What is known of a service's use after a look at it.

    A request under way is use now. So is a counter that changed since the last look: when in between is not known, and
    the latest is taken. Where nothing was seen before, the server's own word counts, or else the look itself. Idle time
    begins no earlier than the service is awake, as far as that is known (`awake_since`; else 0).
    """
    same = before if before is not None and before.run == run else None
    if told.in_flight or (same is not None and told.served != same.served):
        used_at = now
    elif same is not None:
        used_at = max(min(now, same.used_at), min(now, told.last_use_at or 0.0))  # ahead: the clock was set back
    else:
        used_at = now if told.last_use_at is None else min(now, told.last_use_at)
    return Use(service=service, run=run, served=told.served, used_at=max(used_at, awake_since), seen_at=now)


def idle_s(use: Use, now: float) -> float:
    """Seconds since the last use; 0 where a clock was set back."""
    return max(0.0, now - use.used_at)


def timeout_s(service: Service, member: ModeMember | None, usual_s: float) -> float | None:
    """After so much idle time the service is to sleep; None: never.

    What the mode says of its member comes first, then what the service says; members that take turns have else the
    `usual_s` of the settings. 0 is never.
    """
    said = member.idle_timeout if member is not None else None
    if said is None:
        said = service.idle_timeout
    if said is None and member is not None and member.want is Want.TIME_SHARED:
        said = usual_s
    return said or None


def may_not_sleep(service: Service, member: ModeMember | None, needed_by: tuple[str, ...], held_by: str) -> str:
    """Why a service may not be put to sleep for being idle, whatever its activity; "" where it may."""
    if held_by:
        return f"{held_by} holds it"
    if service.pinned:
        return "it is pinned"
    if service.adopted is not None:
        return "it was adopted: whoever set it up keeps it"
    if needed_by:
        return f"{', '.join(needed_by)} need{'s' if len(needed_by) == 1 else ''} it"
    if not service.supports_sleep and member is not None and member.want is Want.AWAKE:
        return "it sleeps only by being stopped, and the mode wants it awake"
    return ""


def awake_that_need(service: str, snapshot: HostSnapshot) -> tuple[str, ...]:
    """Who is up, does not sleep, and needs `service`."""
    up = ((name, r) for name, r in snapshot.services.items() if r.state in ALIVE - {State.SLEEPING})
    return tuple(sorted(name for name, reading in up if reading.launched and service in reading.launched.needs))


def member_of(mode: Mode | None, service: str) -> ModeMember | None:
    """What `mode` says of `service`."""
    return next((m for m in mode.members if m.service == service), None) if mode is not None else None
