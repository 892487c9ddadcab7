"""Leases in the database."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import select

from gpumod.adapters.store.connect import Database
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import dump, load
from gpumod.adapters.store.tables import LeaseRow
from gpumod.domain.errors import GpumodError
from gpumod.domain.holding import Holding
from gpumod.domain.run import Event

_AS_ADDED = text("leases.rowid")
"""Not by time: the clock may have been set back between two of them."""
_COLUMNS = frozenset({"id", "gpu", "vram_mb", "since", "until", "pid", "identity"})


class Leases:
    """The part of the store that holds leases."""

    _db: Database

    def holdings(self) -> tuple[Holding, ...]:
        """The leases, the oldest first. A row that is no longer valid is left out: it holds nothing."""
        found: list[Holding] = []
        with self._db.read() as session:
            for row in session.exec(select(LeaseRow).order_by(_AS_ADDED)):
                columns = {name: getattr(row, name) for name in _COLUMNS}
                try:
                    found.append(load(Holding, "leases", row.id, row.definition, columns))
                except GpumodError:
                    continue
        return tuple(found)

    def put_holding(self, holding: Holding, *, event: Event) -> None:
        """Add or replace a lease."""
        columns = {name: getattr(holding, name) for name in _COLUMNS}
        with self._db.write() as session:
            session.merge(LeaseRow(**columns, definition=dump(holding, _COLUMNS)))
            add_event(session, event)

    def delete_holding(self, holding_id: str, *, event: Event) -> None:
        """Forget a lease; one that is not there is nothing to forget."""
        with self._db.write() as session:
            row = session.get(LeaseRow, holding_id)
            if row is not None:
                session.delete(row)
                add_event(session, event)
