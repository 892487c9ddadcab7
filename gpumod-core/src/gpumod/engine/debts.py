"""What turns owe: a service is left as the first of those who share it has found it, or as somebody wished since.

A turn is a debt from the moment it has begun, and all tickets of one service that have begun carry the same: the state
`before`, which is None until it was seen while nobody changed the machine. What its service needs, and was down, is a
debt of its own, by a ticket that nobody holds. A ticket goes when its service is left so, or with another of the same
service that goes on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from gpumod.domain.idling import awake_that_need
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import Run
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, Action, State
from gpumod.domain.turns import Places, Ticket, is_of_turn
from gpumod.engine.machine import Machine
from gpumod.engine.turns import forget, live_turns, over_turns
from gpumod.planner.changes import with_needs

_DOWN = frozenset({State.SLEEPING, *GONE})
"""How a service is left that a turn has brought up."""


def is_quiet(machine: Machine) -> bool:
    """True while nobody changes the machine, and no run is open that somebody may go on with."""
    return machine.local.holder(machine.probe.machine_dir()) is None and machine.store.open_run() is None


def found(machine: Machine, mine: Ticket, snapshot: HostSnapshot, mode: Target) -> None:
    """Note how a turn has found its service, and what that needs, while nobody else changes the machine.

    What sleeps or is stopped was put there by somebody's change, and no turn has brought it up since. `mode` is the
    current one, as it was taken.
    """
    store = machine.store
    defined = store.services()
    with store.together():
        for service in sorted({mine.service, *with_needs(defined, [mine.service])}):
            state = snapshot.reading(service).state
            before = _to_leave(service, snapshot, wished(mode, service, defined, snapshot.services))
            tickets = [ticket for ticket in _begun(machine) if ticket.service == service]
            for ticket in tickets:
                if ticket.before is None or state in (State.SLEEPING, State.STOPPED):
                    store.note_turn(ticket.model_copy(update={"before": before}))
            if not tickets and before in _DOWN:
                update = {"id": uuid.uuid4().hex[:12], "service": service, "identity": "", "before": before}
                store.add_turn(mine.model_copy(update=update))


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
                machine.store.note_turn(ticket.model_copy(update={"before": wish}))


def as_owed(over: Ticket, snapshot: HostSnapshot) -> Target | None:
    """What is to be done to leave a service as it is to be, now that its turn is over; None: nothing.

    What was stopped meanwhile stays so, and what crashed is not started to be put to sleep.
    """
    service, state = over.service, snapshot.reading(over.service).state
    if over.before not in _DOWN or state in (over.before, State.STOPPED):
        return None
    if over.before is not State.SLEEPING:
        return Target(stop=(service,), stop_others=False)
    if state is State.FAILED:
        return None
    asleep = TargetMember(service=service, want=Want.ASLEEP, why="its turn is over")
    return Target(members=(asleep,), stop_others=False)


def is_held(machine: Machine, over: Ticket, snapshot: HostSnapshot, places: Places) -> bool:
    """True while others settle what is owed, sooner or later: who has a turn with the service, or with what needs it,
    or waits for one; who is about to wake another one of its place; and what is awake and needs it."""
    if over.service in _needed(machine, snapshot) or awake_that_need(over.service, snapshot):
        return True
    coming = (
        ticket
        for ticket in live_turns(machine)
        if ticket.began_at is None or snapshot.reading(ticket.service).state is not State.RUNNING
    )
    return over.service in places.get(over.service, ()) and any(ticket.service in places for ticket in coming)


def forget_all(machine: Machine, tickets: Iterable[Ticket]) -> None:
    """Forget what is not owed any more."""
    with machine.store.together():
        for ticket in tickets:
            forget(machine, ticket)


def brought_up(machine: Machine) -> Mapping[str, State]:
    """What turns have brought up, over or not, and how it is to be left."""
    return {ticket.service: ticket.before for ticket in _begun(machine) if ticket.before in _DOWN}


def left_awake(machine: Machine, snapshot: HostSnapshot) -> Mapping[str, str]:
    """What is awake for turns that are over, by service, in words; nothing of what others have a turn with or wait for,
    or need for that."""
    needed = _needed(machine, snapshot)
    return {
        t.service: f"{t.service} is awake for a turn that is over ({t.holder}): gpumod service sleep {t.service}"
        for t in over_turns(machine)
        if t.service not in needed
        if snapshot.reading(t.service).state is State.RUNNING and as_owed(t, snapshot) is not None
    }


def wished(
    target: Target, service: str, defined: Mapping[str, Service], readings: Mapping[str, ServiceReading]
) -> State | None:
    """How a change to `target` wants a service to be, as far as it says so."""
    if service in target.stop:
        return State.STOPPED
    for member in target.members:
        if member.service == service:
            return State.RUNNING if member.want is Want.AWAKE else State.SLEEPING
    # One that is put to sleep by itself asks for nothing; in a whole mode it may be woken.
    asks = [m.service for m in target.members if target.stop_others or m.want is Want.AWAKE]
    if service in with_needs(defined, asks):
        return State.RUNNING
    definition, reading = defined.get(service), readings.get(service)
    left_alone = (definition is not None and definition.pinned) or (reading is not None and reading.adopted)
    return State.STOPPED if target.stop_others and not left_alone else None


def _to_leave(service: str, snapshot: HostSnapshot, wish: State | None) -> State:
    """How a service is left that a turn finds so: as it is; but what is gone, though the mode has a wish or something
    that lives needs it, as these want it."""
    state = snapshot.reading(service).state
    if state not in GONE:
        return state
    alive = (r.launched for r in snapshot.services.values() if r.launched and r.state not in GONE)
    if any(service in launched.needs for launched in alive):
        return State.RUNNING
    return wish if wish in (State.RUNNING, State.SLEEPING) else state


def _begun(machine: Machine) -> tuple[Ticket, ...]:
    """All turns that have begun, over or not."""
    return tuple(ticket for ticket in machine.store.turns() if ticket.began_at is not None)


def _needed(machine: Machine, snapshot: HostSnapshot) -> set[str]:
    """What those who have a turn, or wait for one, use: its service, and what that needs."""
    services = {**machine.store.services(), **{r.service: r.launched for r in snapshot.services.values() if r.launched}}
    return with_needs(services, [ticket.service for ticket in live_turns(machine)])
