"""Verify: plan again from what is there now. Whatever such a plan would still do is not as it should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from gpumod.domain.errors import Failed
from gpumod.domain.plan import Step
from gpumod.domain.states import Action
from gpumod.engine.context import RunContext
from gpumod.engine.device import refuse_fault
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Planned, Wanted, plan_for
from gpumod.plugins.kit import poll

LOOK_BACK = 500
"""So many of the last stops are looked at."""


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
    """Services whose last stop stood for a sleep that had freed nothing, with the level that was tried."""
    last: dict[str, str] = {}
    for event in machine.store.events_of("stopped", LOOK_BACK):
        last.setdefault(event.subject, str(event.data.get("instead_of", "")))
    return {service: level for service, level in last.items() if level}


def without(wanted: Wanted, instead: Collection[str]) -> Wanted:
    """`wanted` without members that were stopped in place of a sleep: nothing more is to be done for them."""
    members = tuple(member for member in wanted.target.members if member.service not in instead)
    return replace(wanted, target=wanted.target.model_copy(update={"members": members}))


async def verify(ctx: RunContext, step: Step) -> str:
    """Look at the whole machine once more; raise `verify-failed` with every service that is not as wanted."""
    wrong: Mapping[str, str] = {}
    target = ctx.plan.target.model_copy(update={"restart": ()})
    wanted = without(Wanted(target, ctx.services), ctx.stopped_instead)

    async def whole() -> bool | None:
        nonlocal wrong
        snapshot = await observe(ctx.machine)
        refuse_fault(snapshot.gpus, {gpu for m in wanted.target.members for gpu in snapshot.reading(m.service).gpus})
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
