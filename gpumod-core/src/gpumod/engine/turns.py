"""Turns that have begun, as leases of services that every plan keeps; and the queue of those that wait."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gpumod.domain.plan import Lease, Plan
from gpumod.domain.run import Event
from gpumod.domain.states import State
from gpumod.domain.turns import Ticket, in_the_way, sharers
from gpumod.engine.machine import Machine


def lives(machine: Machine, ticket: Ticket) -> bool:
    """True while the process that holds it lives."""
    return machine.local.identity(ticket.pid) == ticket.identity


def live_turns(machine: Machine) -> tuple[Ticket, ...]:
    """The tickets of those that live, the earliest first."""
    return tuple(ticket for ticket in machine.store.turns() if lives(machine, ticket))


def begun_turns(machine: Machine) -> tuple[Ticket, ...]:
    """The turns that are under way."""
    return tuple(ticket for ticket in live_turns(machine) if ticket.began_at is not None)


def held_by_turns(turns: Sequence[Ticket]) -> tuple[Lease, ...]:
    """Turns as the planner counts them: it keeps a leased service awake."""
    return tuple(Lease(id=t.id, holder=f"the turn of {t.holder}", service=t.service) for t in turns)


def turns_passed_over(turns: Sequence[Ticket], plan: Plan) -> tuple[str, ...]:
    """What a forced plan does to services whose turn it is."""
    touched = {step.service for step in plan.steps}
    return tuple(f"passed over: {in_words(ticket)}" for ticket in turns if ticket.service in touched)


def clear_lost(machine: Machine) -> None:
    """Clear away the tickets of those that are gone: they hold nothing."""
    for ticket in machine.store.turns():
        if not lives(machine, ticket):
            machine.store.delete_turn(ticket.id, event=_event(machine, "turn-lost", ticket))


def draw(machine: Machine, ticket: Ticket) -> Ticket:
    """Draw the next number of the queue."""
    clear_lost(machine)
    return machine.store.add_turn(ticket)


def begin_if_free(machine: Machine, mine: Ticket, sharing: Collection[str], state: State) -> Ticket:
    """`mine`, begun where nobody is in its way; as it was where somebody is. All in one transaction.

    `state` is that of its service now.
    """
    with machine.store.together():
        tickets = live_turns(machine)
        if in_the_way(mine, tickets, sharing):
            return mine
        first = next(iter(sharers(mine, tickets)), None)
        before = first.before if first is not None else state
        begun = mine.model_copy(update={"began_at": machine.clock.now(), "before": before})
        machine.store.begin_turn(begun, event=_event(machine, "turn-began", begun))
        return begun


def end(machine: Machine, ticket: Ticket) -> None:
    """Give a ticket back, whether its turn had begun or not."""
    event = _event(machine, "turn-ended", ticket) if ticket.began_at is not None else None
    machine.store.delete_turn(ticket.id, event=event)


def in_words(ticket: Ticket) -> str:
    """A ticket in one line."""
    return f"{ticket.holder} {'has a turn with' if ticket.began_at is not None else 'waits for'} {ticket.service}"


def _event(machine: Machine, kind: str, ticket: Ticket) -> Event:
    data = {"turn": ticket.id, "holder": ticket.holder}
    return Event(at=machine.clock.now(), kind=kind, subject=ticket.service, data=data)
