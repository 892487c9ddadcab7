"""Turns: who uses a service that shares its memory with others, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from gpumod.domain.base import Frozen, Id, Text
from gpumod.domain.run import Event
from gpumod.domain.states import State

Places = Mapping[str, frozenset[str]]
"""What shares one place, by the services that stand on it: itself, or what of it they need. The others have none."""


class Ticket(Frozen):
    """Somebody's place in the queue of turns; the lower `number`, the earlier it was drawn.

    `pid` is the process that holds it and `identity` tells that one from every other, so that a turn ends with whoever
    holds it; it is empty where that has given it back, and where it is what a turn's service needs, which nobody had a
    turn with. `began_at` is None while it waits. `before` is how the service is to be left after it; None while that is
    not known.
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

    `note_turn` notes `began_at` and `before`, `end_turn` takes its holder away. For one that is not there each does
    nothing.
    """

    def turns(self) -> tuple[Ticket, ...]: ...
    def add_turn(self, ticket: Ticket) -> Ticket: ...
    def note_turn(self, ticket: Ticket, *, event: Event | None = None) -> None: ...
    def end_turn(self, ticket_id: str, *, event: Event) -> None: ...
    def delete_turn(self, ticket_id: str, *, event: Event | None) -> None: ...


def in_the_way(
    mine: Ticket, tickets: Sequence[Ticket], places: Places, inside: Collection[str] = ()
) -> tuple[Ticket, ...]:
    """The tickets for which `mine` has to wait: earlier ones of others among the services that share one place.

    Several of one service have their turn together, and so do those of what needs it; but nobody passes one who waits
    for another service: so everybody gets a turn, in the order of the tickets. A service that shares its place with
    none waits for nobody, and who asks `inside` a turn (by its id) for what is awake for that goes on with it.
    """
    here = places.get(mine.service)
    if here is None or any(t.id in inside and here <= places.get(t.service, frozenset()) for t in tickets):
        return ()
    return tuple(t for t in tickets if t.number < mine.number and places.get(t.service, here) != here)


def sharers(mine: Ticket, tickets: Iterable[Ticket]) -> tuple[Ticket, ...]:
    """Others whose turn with the same service has begun."""
    return tuple(t for t in tickets if t.service == mine.service and t.id != mine.id and t.began_at is not None)


def is_of_turn(command: str) -> bool:
    """True for the command of a run that a turn was woken or put back by, by whoever ends it or by `watch`: nobody
    wishes anything by it."""
    return command.startswith(("turn ", "watch: sleep "))
