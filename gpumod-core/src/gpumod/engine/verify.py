"""Verify: look at the whole target, and say what is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpumod.domain.errors import Failed
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Step, Target
from gpumod.domain.service import Service
from gpumod.domain.states import ALIVE, State
from gpumod.engine.context import RunContext, poll
from gpumod.engine.observe import observe


def misses(target: Target, services: Mapping[str, Service], snapshot: HostSnapshot, slept_by_stop: Sequence[str] = ()) -> Mapping[str, str]:
    """What is not as the target wants it: service id to a sentence. Pure.

    `slept_by_stop` are services that were stopped because sleeping freed nothing.
    """
    wrong: dict[str, str] = {}
    for member in target.members:
        reading = snapshot.reading(member.service)
        service = services[member.service]
        if member.want is Want.AWAKE:
            ok = reading.state is State.RUNNING
        elif service.supports_sleep:
            ok = reading.state is State.SLEEPING or (member.service in slept_by_stop and reading.state is State.STOPPED)
            ok = ok or (member.want is Want.TIME_SHARED and reading.state is State.RUNNING)
        else:
            ok = reading.state is State.STOPPED
        if not ok:
            wrong[member.service] = f"is {reading.state}, wanted {member.want}" + (
                f": {reading.detail}" if reading.detail else ""
            )
    for service_id in target.stop:
        if snapshot.reading(service_id).state is not State.STOPPED:
            wrong[service_id] = f"is {snapshot.reading(service_id).state}, wanted stopped"
    return wrong


def extras(target: Target, services: Mapping[str, Service], snapshot: HostSnapshot, needed: Sequence[str] = ()) -> Sequence[str]:
    """What is alive although the target does not name it, and is neither pinned, adopted nor needed. Pure."""
    named = {member.service for member in target.members} | set(needed)
    return sorted(
        reading.service
        for reading in snapshot.services.values()
        if reading.state in ALIVE
        and reading.service not in named
        and not reading.adopted
        and not (reading.service in services and services[reading.service].pinned)
    )


async def verify(ctx: RunContext, step: Step) -> str:
    """Look at the whole machine once more; raise `verify-failed` with every member that is not as wanted."""
    wrong: Mapping[str, str] = {}

    async def whole() -> bool | None:
        nonlocal wrong
        snapshot = await observe(ctx.machine)
        wrong = misses(ctx.plan.target, ctx.services, snapshot, sorted(ctx.stopped_instead))
        return None if wrong else True

    ctx.waiting(step, "every service to be as wanted")
    if await poll(ctx.machine, 2.0, whole):
        return ""
    raise Failed(
        "verify-failed",
        "not everything is as it should be: " + "; ".join(f"{s} {why}" for s, why in wrong.items()),
        hint="see `gpumod status` and `gpumod service logs SERVICE`",
        services=dict(wrong),
    )
