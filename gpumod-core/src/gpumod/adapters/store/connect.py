"""Connections: transactions that SQLite really begins, and writers that take their lock at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlmodel import Session

from gpumod.adapters.store.faults import translated
from gpumod.domain.errors import MachineLacks

BUSY_TIMEOUT_MS = 30_000
WRITER = "BEGIN IMMEDIATE"


def connect_file(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open an existing database file. `mode` is a query of SQLite's URI: `rw`, `ro`, or `ro&immutable=1`."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000)


def file_engine(path: Path, mode: str = "rw") -> Engine:
    """An engine on a database file that is there."""
    return _prepared(create_engine("sqlite://", creator=lambda: connect_file(path, mode), poolclass=QueuePool))


def memory_engine(connection: sqlite3.Connection) -> Engine:
    """An engine on one database in memory. It has one connection, so threads take turns."""
    return _prepared(
        create_engine("sqlite://", creator=lambda: connection, poolclass=QueuePool, pool_size=1, max_overflow=0)
    )


def memory_connection() -> sqlite3.Connection:
    """A new database in memory."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _prepared(engine: Engine) -> Engine:
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _text(data: bytes) -> str:
    """A text as it stands in the file. What is no UTF-8 becomes what no definition may hold: one row is bad then, and
    named, where sqlite3 itself would refuse the whole table."""
    return data.decode("utf-8", "surrogateescape")


def _on_connect(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()  # nobody else knows of it yet, and it may hold a lock
        raise


def _on_begin(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails at once, without waiting, when somebody else
    # wrote in between: so writers say what they are from the start.
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def run_sql(session: Session, statement: str, **values: Any) -> CursorResult[Any]:
    """Execute SQL as it stands, in the session's transaction: for what every step writes, where building a statement
    from tables would cost several times what SQLite takes."""
    return session.connection().exec_driver_sql(statement, values)


class Database:
    """An open database: `read` and `write` give one short transaction each.

    `writable` is False where nothing can be written: `refusal` is then what a change is refused with.
    """

    def __init__(self, engine: Engine, path: Path, refusal: MachineLacks | None = None) -> None:
        self.path = path
        self._refusal = refusal
        self._engine = engine
        self._writer = engine.execution_options(sqlite_begin=WRITER)
        self._own = threading.local()

    @property
    def writable(self) -> bool:
        return self._refusal is None

    def check_writable(self) -> None:
        """Raise MachineLacks(`read-only-home` | `disk-full`) where nothing can be written."""
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the database throughout."""
        with translated(self.path), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed when the block ends, and undone when it raises.

        Raises MachineLacks(`read-only-home`) and MachineLacks(`disk-full`).
        """
        shared: Session | None = getattr(self._own, "session", None)
        if shared is not None:
            yield shared
            return
        self.check_writable()
        with translated(self.path), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread writes inside is one transaction. Nobody else writes meanwhile; reads see what was.

        Inside another one it is part of that.
        """
        if getattr(self._own, "session", None) is not None:
            yield
            return
        with self.write() as session:
            session.connection()  # a session begins with its first statement: the lock is to be had before any read
            self._own.session = session
            try:
                yield
            finally:
                self._own.session = None

    def close(self) -> None:
        """Close every connection. The last one to leave folds the write-ahead log into the file."""
        self._engine.dispose()
