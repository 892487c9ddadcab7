"""What a run measures of services, and what of it is believed: a number may be lowered only by what was used."""

from __future__ import annotations

import math

from gpumod.domain.activity import Activity
from gpumod.domain.run import Handle, Sample
from gpumod.domain.service import Service
from gpumod.engine.asking import ask_activity
from gpumod.engine.context import RunContext
from gpumod.engine.device import Held
from gpumod.engine.footprints import footprint, key_of
from gpumod.engine.machine import Machine


def settled_early(ctx: RunContext, service: Service, now: Held) -> float:
    """MiB for a sample taken as soon as a service is ready: it may only raise what is expected.

    Many services take the rest at their first request.
    """
    return _unless_less(now, ctx.footprints[service.id].vram_mb)


async def settled_late(ctx: RunContext, handle: Handle, now: Held) -> float:
    """MiB for a sample taken before a service stops or goes to sleep.

    Less than is expected of it is believed only where it has served something since it was started or woken, and does
    not load and unload by itself: what that holds depends on what it was asked last.
    """
    machine, service = ctx.machine, handle.launched
    expected = footprint(machine, service, ctx.snapshot.gpus, machine.store.samples(), _seat(ctx, service))
    seen = _unless_less(now, expected.vram_mb)
    if not math.isnan(seen) or not now.total_mb:
        return seen
    can = machine.capabilities(service)
    if can.loads_by_use or can.unloads_itself:
        return math.nan
    has_served = await served(machine, service, machine.port(service, ctx.services, machine.store.handles()))
    was_used = None not in (has_served, handle.served) and has_served != handle.served
    return _unless_less(now, 0) if was_used else math.nan


async def served(machine: Machine, service: Service, port: int | None) -> float | None:
    """What the server of a service has counted so far; None where it does not tell."""
    told = await ask_activity(machine, service, port)
    return told.served if isinstance(told, Activity) else None


def _seat(ctx: RunContext, service: Service) -> tuple[int, ...]:
    """The GPUs where the plan has it."""
    return next((row.gpus for row in ctx.plan.services if row.id == service.id), ())


def _unless_less(now: Held, expected_mb: int) -> float:
    """MiB for a sample; not a number where the driver does not tell, nothing is held, or less than is expected."""
    return float(now.total_mb) if now.known and now.total_mb >= max(1, expected_mb) else math.nan


def record(ctx: RunContext, service: Service, **values: float) -> None:
    """Store measurements of `service` under its launch options on the GPUs where the plan has it."""
    key = key_of(service, ctx.snapshot.gpus, _seat(ctx, service))
    known = {"service": service.id, "key": key, "at": ctx.machine.clock.now()}
    samples = [
        Sample.model_validate({**known, "kind": kind, "value": value})
        for kind, value in values.items()
        if not math.isnan(value)
    ]
    if samples:
        ctx.machine.store.add_samples(samples)
