"""Turns with services, and when each service was used last, in the database."""

from __future__ import annotations

from sqlmodel import col, delete, select

from gpumod.adapters.store.connect import Database
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import load
from gpumod.adapters.store.tables import TurnRow, UseRow
from gpumod.domain.errors import GpumodError
from gpumod.domain.idling import Use
from gpumod.domain.run import Event
from gpumod.domain.turns import Ticket

_TICKET = frozenset(Ticket.model_fields)
_USE = frozenset(Use.model_fields)


class Turns:
    """The part of the store that tells who uses what."""

    _db: Database

    def turns(self) -> tuple[Ticket, ...]:
        """The tickets, the earliest first. A row that is no longer valid is left out: it holds nothing."""
        found: list[Ticket] = []
        with self._db.read() as session:
            for row in session.exec(select(TurnRow).order_by(col(TurnRow.number))):
                columns = {name: getattr(row, name) for name in _TICKET}
                try:
                    found.append(load(Ticket, "turns", row.id, "{}", columns))
                except GpumodError:
                    continue
        return tuple(found)

    def add_turn(self, ticket: Ticket) -> Ticket:
        """Add a ticket; it is given back with its number, higher than those of all that are there."""
        row = TurnRow(**ticket.model_dump(mode="json", exclude={"number"}))
        with self._db.write() as session:
            session.add(row)
            session.flush()
            return ticket.model_copy(update={"number": row.number})

    def note_turn(self, ticket: Ticket, *, event: Event | None = None) -> None:
        """Note when a turn has begun, and how its service is to be left. One that is gone does not come back."""
        with self._db.write() as session:
            row = session.exec(select(TurnRow).where(TurnRow.id == ticket.id)).one_or_none()
            if row is not None:
                row.began_at, row.before = ticket.began_at, ticket.before.value if ticket.before else None
                session.add(row)
                if event is not None:
                    add_event(session, event)

    def end_turn(self, ticket_id: str, *, event: Event) -> None:
        """Note that nobody holds it any more."""
        with self._db.write() as session:
            row = session.exec(select(TurnRow).where(TurnRow.id == ticket_id)).one_or_none()
            if row is not None:
                row.identity = ""
                session.add(row)
                add_event(session, event)

    def delete_turn(self, ticket_id: str, *, event: Event | None) -> None:
        """Forget a ticket; one that is not there is nothing to forget."""
        with self._db.write() as session:
            row = session.exec(select(TurnRow).where(TurnRow.id == ticket_id)).one_or_none()
            if row is not None:
                session.delete(row)
                if event is not None:
                    add_event(session, event)

    def uses(self) -> dict[str, Use]:
        """When each service was used last. A row that is no longer valid is left out: nothing is known then."""
        found: dict[str, Use] = {}
        with self._db.read() as session:
            for row in session.exec(select(UseRow)):
                try:
                    columns = {name: getattr(row, name) for name in _USE}
                    found[row.service] = load(Use, "uses", row.service, "{}", columns)
                except GpumodError:
                    continue
        return found

    def put_uses(self, uses: dict[str, Use]) -> None:
        """Keep these, and no others."""
        with self._db.write() as session:
            session.exec(delete(UseRow))
            session.add_all(UseRow(**use.model_dump()) for use in uses.values())
