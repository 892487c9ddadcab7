"""Turns: who uses a service that shares its memory with others, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from gpumod.domain.base import Frozen, Id, Text
from gpumod.domain.run import Event
from gpumod.domain.states import State


class Ticket(Frozen):
    """Somebody's place in the queue of turns; the lower `number`, the earlier it was drawn.

    `pid` is the process that holds it and `identity` tells that one from every other, so that a turn ends with whoever
    holds it; it is empty where that has given it back. `began_at` is None while it waits. `before` is how the service
    is to be left after it, which is as the first of those that share it has found it; None while that is not known.
    """

    id: str
    number: int = 0
    service: Id
    holder: Text
    pid: int
    identity: str
    asked_at: float
    began_at: float | None = None
    before: State | None = None


class KeepsTurns(Protocol):
    """The part of a store that keeps tickets, the earliest first. `add_turn` gives it its number.

    `begin_turn` notes `began_at` and `before`, `end_turn` takes its holder away. For one that is not there each does
    nothing.
    """

    def turns(self) -> tuple[Ticket, ...]: ...
    def add_turn(self, ticket: Ticket) -> Ticket: ...
    def begin_turn(self, ticket: Ticket, *, event: Event | None) -> None: ...
    def end_turn(self, ticket_id: str, *, event: Event) -> None: ...
    def delete_turn(self, ticket_id: str, *, event: Event | None) -> None: ...


def in_the_way(
    mine: Ticket, tickets: Sequence[Ticket], sharing: Collection[str], inside: Collection[str] = ()
) -> tuple[Ticket, ...]:
    """The tickets for which `mine` has to wait: earlier ones of others among the services that share one place.

    Several of one service have their turn together, but nobody passes one who waits for another service: so everybody
    gets a turn, in the order of the tickets. A service that shares its place with none waits for nobody, and who asks
    for a service `inside` a turn (by its id) with the same one goes on with that.
    """
    if mine.service not in sharing or any(t.id in inside and t.service == mine.service for t in tickets):
        return ()
    return tuple(t for t in tickets if t.number < mine.number and t.service in sharing and t.service != mine.service)


def sharers(mine: Ticket, tickets: Iterable[Ticket]) -> tuple[Ticket, ...]:
    """Others whose turn with the same service has begun."""
    return tuple(t for t in tickets if t.service == mine.service and t.id != mine.id and t.began_at is not None)


def is_of_turn(command: str) -> bool:
    """True for the command of a run that a turn was woken or put back by."""
    return command.startswith("turn ")


def is_awaited(ended: Ticket, tickets: Iterable[Ticket], sharing: Collection[str]) -> bool:
    """True when somebody else has a turn with that service, or waits for one that settles it: then it is left as it is.

    Whoever is next among those that share its place puts it to sleep by the plan that wakes the next service.
    """
    same = sharing if ended.service in sharing else {ended.service}
    return any(t.id != ended.id and t.service in same for t in tickets)
