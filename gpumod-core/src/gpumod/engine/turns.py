"""Turns that have begun, as leases of services that every plan keeps; and the queue of those that wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpumod.domain.errors import Busy, Failed
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Lease, Plan
from gpumod.domain.run import Event
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, Action
from gpumod.domain.turns import Places, Ticket, in_the_way, sharers
from gpumod.engine.machine import Machine
from gpumod.planner.changes import with_needs

InUse = Mapping[str, tuple[Ticket, ...]]
"""The turns that use each service."""

# --- whose turn it is -------------------------------------------------------------------------------------------------


def lives(machine: Machine, ticket: Ticket) -> bool:
    """True while the process that holds it lives, and has not given it back."""
    return machine.local.identity(ticket.pid) == ticket.identity


def live_turns(machine: Machine) -> tuple[Ticket, ...]:
    """The tickets of those that live, the earliest first."""
    return tuple(ticket for ticket in machine.store.turns() if lives(machine, ticket))


def live_with(machine: Machine, mine: Ticket) -> tuple[Ticket, ...]:
    """The tickets of those that live, `mine` among them. Raises Failed `turn-lost` where that was given back by
    somebody else, or whoever was to have the turn has ended."""
    live = live_turns(machine)
    if mine.id not in {ticket.id for ticket in live}:
        raise Failed(
            "turn-lost",
            f"the turn with {mine.service} is lost",
            why=f"{mine.holder} has ended, or somebody has given its turn back",
            hint="ask for it again",
        )
    return live


def begun_turns(machine: Machine) -> tuple[Ticket, ...]:
    """The turns that are under way."""
    return tuple(ticket for ticket in live_turns(machine) if ticket.began_at is not None)


def over_turns(machine: Machine) -> tuple[Ticket, ...]:
    """The turns that are over, by whatever end, and whose services were not left yet as they are to be."""
    return tuple(t for t in machine.store.turns() if t.began_at is not None and not lives(machine, t))


def places(services: Mapping[str, Service], sharing: Collection[str]) -> Places:
    """Where the turns with `services` are, when these share one place."""
    found = {service: frozenset(with_needs(services, [service]) & {*sharing}) for service in services}
    return {service: place for service, place in found.items() if place}


def around(machine: Machine, pid: int) -> frozenset[str]:
    """The turns of commands that have started the process `pid`, as ids."""
    others = (turn for turn in begun_turns(machine) if turn.pid != pid)
    return frozenset(turn.id for turn in others if pid in machine.local.tree(turn.pid))


# --- what plans do with it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """What a plan does to one service that is in use: `doing` is "stopped", "restarted" or "put to sleep"."""

    service: str
    doing: str
    turns: tuple[Ticket, ...]


def users(turns: Iterable[Ticket], snapshot: HostSnapshot, services: Mapping[str, Service]) -> InUse:
    """Who has a turn with each service, or with what needs it and is up. `services` are the definitions of now."""
    found: dict[str, tuple[Ticket, ...]] = {}
    for ticket in turns:
        needed = () if snapshot.reading(ticket.service).state in GONE else with_needs(services, [ticket.service])
        for service in sorted({ticket.service, *needed}):
            found[service] = (*found.get(service, ()), ticket)
    return found


def held_by_turns(used: InUse) -> tuple[Lease, ...]:
    """What is in use, as the planner counts it: it keeps a leased service awake."""
    return tuple(
        Lease(id=turn.id, holder=_holder(turn, service), service=service)
        for service, turns in used.items()
        for turn in turns
    )


def taken_away(plan: Plan, snapshot: HostSnapshot, used: InUse) -> tuple[Taken, ...]:
    """What `plan` stops or puts to sleep of what is in use. What is gone already can be taken from nobody."""
    started = {step.service for step in plan.steps if step.action is Action.START}
    found: dict[str, Taken] = {}
    for step in plan.steps:
        here = step.service
        if step.action not in (Action.STOP, Action.SLEEP) or here not in used or snapshot.reading(here).state in GONE:
            continue
        stopped = "restarted" if here in started else "stopped"
        found.setdefault(here, Taken(here, stopped if step.action is Action.STOP else "put to sleep", used[here]))
    return tuple(found.values())


def refuse_taken(taken: Sequence[Taken]) -> None:
    """Raise Busy `leased`, with the holder, where a plan takes away what somebody uses. Every plan that is to be done
    without force comes by here."""
    for one in taken:
        turn, others = one.turns[0], len(one.turns) - 1
        held = "holds it" if turn.service == one.service else "needs it"
        raise Busy(
            "leased",
            f"{one.service} cannot be {one.doing} now",
            why=f"{_holder(turn, one.service)} {held}" + (f", and {others} more" if others else ""),
            hint=f"wait until that is over (`gpumod status`), or go first with --force (or before it: `gpumod service "
            f"stop {turn.service} --force`)",
        )


def passed_over(taken: Sequence[Taken]) -> tuple[str, ...]:
    """What a plan that nothing blocks takes away from whom."""
    return tuple(dict.fromkeys(f"passed over: {in_words(turn)}" for one in taken for turn in one.turns))


def _holder(ticket: Ticket, service: str) -> str:
    return f"the turn of {ticket.holder}" + ("" if ticket.service == service else f" with {ticket.service}")


# --- the queue --------------------------------------------------------------------------------------------------------


def draw(machine: Machine, ticket: Ticket) -> Ticket:
    """Draw the next number of the queue."""
    clear_lost(machine)
    return machine.store.add_turn(ticket)


def clear_lost(machine: Machine) -> None:
    """Clear away the tickets of those that died while they waited. A turn that had begun is :func:`over_turns`."""
    for ticket in machine.store.turns():
        if ticket.began_at is None and not lives(machine, ticket):
            forget(machine, ticket)


def begin_if_free(machine: Machine, mine: Ticket, places: Places, inside: Collection[str] = ()) -> Ticket:
    """`mine`, begun where nobody is in its way; as it was where somebody is. All in one transaction.

    `inside` are the turns during which it is asked for. It takes over what is owed of its service: the last one leaves
    it as the first has found it. Raises as :func:`live_with` does.
    """
    with machine.store.together():
        tickets = live_with(machine, mine)
        if in_the_way(mine, tickets, places, inside):
            return mine
        over = [ticket for ticket in over_turns(machine) if ticket.service == mine.service]
        first = next(iter((*sharers(mine, tickets), *over)), mine)
        begun = mine.model_copy(update={"began_at": machine.clock.now(), "before": first.before})
        machine.store.note_turn(begun, event=_event(machine, "turn-began", begun))
        for ticket in over:
            forget(machine, ticket)
        return begun


def end(machine: Machine, turn: str) -> None:
    """End a turn, or the waiting for it, by its id; one that is gone is nothing to end.

    The ticket of one that has begun is kept, without a holder, until its service was left as it is to be, for whoever
    comes where this is killed before. Where several share a turn, the last one does so.
    """
    with machine.store.together():
        ticket = next((ticket for ticket in machine.store.turns() if ticket.id == turn), None)
        if ticket is None:
            return
        ended = _event(machine, "turn-ended", ticket)
        if ticket.began_at is None:
            forget(machine, ticket)
        elif sharers(ticket, live_turns(machine)):
            machine.store.delete_turn(ticket.id, event=ended)
        else:
            machine.store.end_turn(ticket.id, event=ended)


def forget(machine: Machine, ticket: Ticket) -> None:
    """Forget a ticket. Where its turn had begun, or its holder died, that is an event, once."""
    event = None
    if ticket.identity and (ticket.began_at is not None or not lives(machine, ticket)):
        event = _event(machine, "turn-ended" if lives(machine, ticket) else "turn-lost", ticket)
    machine.store.delete_turn(ticket.id, event=event)


def in_words(ticket: Ticket) -> str:
    """A ticket in one line."""
    return f"{ticket.holder} {'has a turn with' if ticket.began_at is not None else 'waits for'} {ticket.service}"


def _event(machine: Machine, kind: str, ticket: Ticket) -> Event:
    data = {"turn": ticket.id, "holder": ticket.holder}
    return Event(at=machine.clock.now(), kind=kind, subject=ticket.service, data=data)
