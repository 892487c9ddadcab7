"""The store: all state, in one SQLite database."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from gpumod.adapters.store.connect import Database
from gpumod.adapters.store.definitions import Definitions
from gpumod.adapters.store.handles import Handles
from gpumod.adapters.store.journal import Journal
from gpumod.adapters.store.leases import Leases
from gpumod.adapters.store.opening import open_database
from gpumod.adapters.store.records import Records
from gpumod.adapters.store.runs import Runs
from gpumod.adapters.store.state import State
from gpumod.adapters.store.turns import Turns

__all__ = ["SqlStore", "open_store"]


class SqlStore(Definitions, State, Handles, Records, Leases, Turns, Runs, Journal):
    """Implements :class:`gpumod.ports.Store`. Safe to use from several threads; `close` it at the end."""

    def __init__(self, database: Database) -> None:
        self._db = database
        weakref.finalize(self, database.close)  # who forgets to close it leaks nothing

    @property
    def writable(self) -> bool:
        """False where nothing can be written: every change raises what `check_writable` does."""
        return self._db.writable

    def check_writable(self) -> None:
        """Raise MachineLacks(`read-only-home` | `disk-full`) where nothing can be written."""
        self._db.check_writable()

    def together(self) -> AbstractContextManager[None]:
        """All that is written inside, by this thread, is one transaction."""
        return self._db.together()

    @property
    def path(self) -> Path:
        return self._db.path

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> SqlStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def open_store(path: Path, *, read_only: bool = False) -> SqlStore:
    """Open the store in the database file `path`, which need not be there yet.

    Raises Failed(`not-a-database` | `database-too-new` | `database`). Where nothing can be written (a read-only home,
    a full disk), it opens for reading.
    """
    return SqlStore(open_database(path, read_only=read_only))
