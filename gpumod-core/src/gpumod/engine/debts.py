"""What turns owe: a service is left as the first of those who share it has found it, or as somebody wished since.

A turn is a debt from the moment it has begun, and all tickets of one service that have begun carry the same: the state
`before`, which is None until it was seen while nobody changed the machine. It is written by :func:`found` and by
:func:`settle` alone. A ticket goes when its service is left so, or with another of the same service that goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gpumod.domain.idling import awake_that_need, member_of
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target
from gpumod.domain.run import Run
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, Action, State
from gpumod.domain.turns import Ticket, is_awaited, is_of_turn
from gpumod.engine.machine import Machine
from gpumod.engine.turns import begun_turns, forget, live_turns, over_turns
from gpumod.planner.changes import with_needs

DOWN = frozenset({State.SLEEPING, *GONE})
"""How a service was found that a turn has brought up."""


def is_quiet(machine: Machine) -> bool:
    """True while nobody changes the machine, and no run is open that somebody may go on with."""
    return machine.local.holder(machine.probe.machine_dir()) is None and machine.store.open_run() is None


def found(machine: Machine, service: str, state: State) -> None:
    """Note how turns with `service` have found it, as it is while nobody else changes the machine.

    What sleeps or is stopped then was put there by somebody's change, and no turn has brought it up since.
    """
    with machine.store.together():
        for ticket in _begun(machine):
            if ticket.service == service and (ticket.before is None or state in (State.SLEEPING, State.STOPPED)):
                machine.store.begin_turn(ticket.model_copy(update={"before": state}), event=None)


def settle(machine: Machine, run: Run) -> None:
    """Note what a change that has reached its target means to what is owed, in the transaction that says so.

    What it has put away is settled. What it wants of a service is what its turns leave from now on, also where it has
    kept that awake for them: but for the turn it had done so itself. Only a turn's own wake wishes nothing.
    """
    if not _begun(machine):
        return  # the usual case: nothing is to be written
    last = {step.service: step.action for step in run.plan.steps}
    defined = machine.store.services()
    with machine.store.together():
        over = {ticket.id for ticket in over_turns(machine)}
        for ticket in _begun(machine):
            wish = None if is_of_turn(run.command) else wished(run.target, ticket.service, defined, run.before)
            put_away = last.get(ticket.service) in (Action.STOP, Action.SLEEP)
            if ticket.id in over and (put_away or wish is State.RUNNING):
                forget(machine, ticket)
            elif wish is not None and wish is not ticket.before:
                machine.store.begin_turn(ticket.model_copy(update={"before": wish}), event=None)


def is_owed(machine: Machine, over: Ticket, snapshot: HostSnapshot) -> bool:
    """True where a service is not left as it is to be, now that its turn is over.

    What the mode wants up and was down before stays up; what was stopped meanwhile stays so, and what crashed is not
    started to be put to sleep.
    """
    state = snapshot.reading(over.service).state
    if over.before not in DOWN or state is over.before or state is State.STOPPED:
        return False
    if over.before is State.SLEEPING:
        return state not in GONE
    store = machine.store
    mode = store.modes().get(store.current_mode() or "")
    member = member_of(mode, over.service)
    if member is not None:
        return member.want is not Want.AWAKE
    return mode is None or over.service not in with_needs(store.services(), [*mode.services])


def is_held(machine: Machine, over: Ticket, snapshot: HostSnapshot, sharing: Collection[str]) -> bool:
    """True while others settle what is owed, sooner or later: who has a turn with the service, or with what needs it,
    who waits for a turn in its place, and what is awake and needs it."""
    services = {**machine.store.services(), **{r.service: r.launched for r in snapshot.services.values() if r.launched}}
    needed = with_needs(services, [ticket.service for ticket in begun_turns(machine)])
    return (
        over.service in needed
        or is_awaited(over, live_turns(machine), sharing)
        or bool(awake_that_need(over.service, snapshot))
    )


def forget_all(machine: Machine, tickets: Iterable[Ticket]) -> None:
    """Forget what is not owed any more."""
    with machine.store.together():
        for ticket in tickets:
            forget(machine, ticket)


def left_awake(machine: Machine, snapshot: HostSnapshot) -> Mapping[str, str]:
    """What is awake for turns that are over, by service, in words; nothing while anybody has a turn or waits."""
    if live_turns(machine):
        return {}
    return {
        t.service: f"{t.service} is awake for a turn that is over ({t.holder}): gpumod service sleep {t.service}"
        for t in over_turns(machine)
        if snapshot.reading(t.service).state is State.RUNNING and is_owed(machine, t, snapshot)
    }


def _begun(machine: Machine) -> tuple[Ticket, ...]:
    """All turns that have begun, over or not."""
    return tuple(ticket for ticket in machine.store.turns() if ticket.began_at is not None)


def wished(
    target: Target, service: str, defined: Mapping[str, Service], readings: Mapping[str, ServiceReading]
) -> State | None:
    """How a change to `target` wants a service to be, as far as it says so."""
    if service in target.stop:
        return State.STOPPED
    for member in target.members:
        if member.service == service:
            return State.RUNNING if member.want is Want.AWAKE else State.SLEEPING
    if service in with_needs(defined, [member.service for member in target.members]):
        return State.RUNNING
    definition, reading = defined.get(service), readings.get(service)
    left_alone = (definition is not None and definition.pinned) or (reading is not None and reading.adopted)
    return State.STOPPED if target.stop_others and not left_alone else None
