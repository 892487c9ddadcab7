"""Events: what happened, written in the transaction of what it tells about."""

from __future__ import annotations

import json

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from gpumod.adapters.store.connect import Database, run_sql
from gpumod.adapters.store.rows import load, parse
from gpumod.adapters.store.tables import EventRow
from gpumod.domain.errors import GpumodError
from gpumod.domain.run import STOP_ASKED, STOPPED_INSTEAD, Event

KEPT_EVENTS = 10_000
"""So many events are kept. Those by which it is known later what was done already are kept beside them."""
KEPT_OF_A_KIND = 200
"""So many of each kind of those."""
ASKED_LATER = (
    "boot-seen", "boot-restored", "boot-try", "boot-disk-full", "watch-restart", "restart-refused", "restart-given-up",
    "idle-sleep-failed", "mode-changed", STOPPED_INSTEAD, STOP_ASKED,
)  # fmt: skip

_ADD = "INSERT INTO events (at, kind, subject, data) VALUES (:at, :kind, :subject, :data)"
_KEEP_NEWEST = f"DELETE FROM events WHERE seq <= :before AND kind NOT IN {ASKED_LATER}"  # noqa: S608  # a constant
_KEEP_OF_A_KIND = (
    "WITH same AS (SELECT seq FROM events WHERE kind = :kind ORDER BY seq DESC LIMIT -1 OFFSET :kept)"
    " DELETE FROM events WHERE seq IN (SELECT seq FROM same)"
)


class Journal:
    """The part of the store that tells what happened."""

    _db: Database

    def events(self, limit: int) -> tuple[Event, ...]:
        """The last `limit` events, the newest first. A row that is no longer valid is left out."""
        return self._events(select(EventRow), limit)

    def events_of(self, *kinds: str, limit: int) -> tuple[Event, ...]:
        """The last `limit` events of these kinds, the newest first."""
        return self._events(select(EventRow).where(col(EventRow.kind).in_(kinds)), limit)

    def add_event(self, event: Event) -> None:
        """Write an event that belongs to no other row."""
        with self._db.write() as session:
            add_event(session, event)

    def _events(self, asked: SelectOfScalar[EventRow], limit: int) -> tuple[Event, ...]:
        found: list[Event] = []
        with self._db.read() as session:
            for row in session.exec(asked.order_by(col(EventRow.seq).desc()).limit(limit)):
                try:
                    data = parse("events", row.seq, "data", row.data)
                    columns = {"at": row.at, "kind": row.kind, "subject": row.subject, "data": data}
                    found.append(load(Event, "events", row.seq, "{}", columns))
                except GpumodError:
                    continue
        return tuple(found)


def add_event(session: Session, event: Event) -> None:
    """Write `event` in the transaction of `session`; the oldest are dropped for it."""
    data = json.dumps(event.model_dump(mode="json")["data"])
    values = {"at": event.at, "kind": event.kind, "subject": event.subject, "data": data}
    seq = run_sql(session, _ADD, **values).lastrowid
    run_sql(session, _KEEP_NEWEST, before=seq - KEPT_EVENTS)
    if event.kind in ASKED_LATER:
        run_sql(session, _KEEP_OF_A_KIND, kind=event.kind, kept=KEPT_OF_A_KIND)
