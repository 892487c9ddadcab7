"""Verify: plan again from what is there now. Whatever such a plan would still do is not as it should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from gpumod.domain.errors import Failed
from gpumod.domain.plan import Step
from gpumod.domain.run import STOPPED_INSTEAD, Event
from gpumod.domain.states import Action
from gpumod.engine.context import RunContext
from gpumod.engine.device import refuse_fault
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Planned, Wanted, plan_for
from gpumod.plugins.kit import poll

LOOK_BACK = 2000
"""So many of the last starts, and of the stops in place of a sleep, are looked at."""


def misses(planned: Planned, excused: Collection[str] = ()) -> Mapping[str, str]:
    """What is not as the target wants it: service id to a sentence. Pure.

    `excused` are services that were stopped because sleeping freed nothing.
    """
    wrong: dict[str, str] = {}
    started = {step.service for step in planned.plan.steps if step.action is Action.START}
    for step in planned.plan.steps:
        if step.action is Action.VERIFY or step.service in excused or step.service in wrong:
            continue
        reading = planned.snapshot.reading(step.service)
        detail = f" ({reading.detail})" if reading.detail else ""
        action = "restart" if step.action is Action.STOP and step.service in started else step.action
        wrong[step.service] = f"is {reading.state}{detail}; it should {action}: {step.why}"
    return wrong


def stopped_instead(machine: Machine) -> Mapping[str, str]:
    """Services that were stopped in place of a sleep that had freed nothing, and were not started since; with the level
    that was tried."""
    store, last = machine.store, dict[str, Event]()
    if not store.events_of(STOPPED_INSTEAD, limit=1):
        return {}
    for event in store.events_of(STOPPED_INSTEAD, "starting", limit=LOOK_BACK):
        last.setdefault(event.subject, event)
    return {s: str(event.data.get("level")) for s, event in last.items() if event.kind == STOPPED_INSTEAD}


def as_stopped(wanted: Wanted, instead: Collection[str]) -> Wanted:
    """`wanted`, where those in `instead` sleep by being stopped, since that is what their sleep came to."""
    known, never = wanted.services, {"sleep_mode": "none"}
    stopping = {s: known[s].model_copy(update=never) for s in instead if s in known}
    return replace(wanted, services={**known, **stopping})


async def verify(ctx: RunContext, step: Step) -> str:
    """Look at the whole machine once more; raise `verify-failed` with every service that is not as wanted."""
    wrong: Mapping[str, str] = {}
    target = ctx.plan.target.model_copy(update={"restart": ()})
    wanted = as_stopped(Wanted(target, ctx.services), ctx.stopped_instead)

    async def whole() -> bool | None:
        nonlocal wrong
        snapshot = await observe(ctx.machine)
        refuse_fault(snapshot.gpus, {gpu for m in target.members for gpu in snapshot.reading(m.service).gpus})
        options = Options(cascade=True, kept=ctx.kept)
        wrong = misses(plan_for(ctx.machine, snapshot, wanted, options), ctx.stopped_instead)
        return None if wrong else True

    ctx.waiting(step, "every service to be as wanted")
    if await poll(ctx.machine.clock, whole, 2.0):
        return ""
    raise Failed(
        "verify-failed",
        "not everything is as it should be: " + "; ".join(f"{s} {why}" for s, why in wrong.items()),
        hint="see `gpumod status` and `gpumod service logs SERVICE`",
        services=dict(wrong),
    )
