"""Making and upgrading the schema with Alembic. Imported only when there is something to do."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from gpumod.adapters.store.connect import WRITER, connect_file
from gpumod.adapters.store.opening import check_revision, revision_of
from gpumod.domain.errors import Failed

_MIGRATIONS = Path(__file__).with_name("migrations")


def create_file(path: Path) -> None:
    """Make a database at `path`, whole or not at all. Does nothing when another process was faster."""
    with _locked(path):
        if path.exists() and path.stat().st_size > 0:
            return
        handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".new", dir=path.parent)  # mode 0600
        os.close(handle)
        new = Path(name)
        try:
            with closing(connect_file(new)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                upgrade(connection)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def upgrade_file(path: Path) -> None:
    """Bring the database at `path` to this code's schema, with a backup beside it. Other processes wait."""
    with _locked(path), closing(connect_file(path)) as connection:
        found = revision_of(connection)
        if check_revision(path, found):
            return
        _back_up(connection, path.with_name(f"{path.name}.backup-{found}"))
        upgrade(connection)


def upgrade(connection: sqlite3.Connection, revision: str = "head") -> None:
    """Run the migrations up to `revision` in one transaction on an open connection."""
    # Foreign keys are off: a batch migration drops and renames tables, which would delete the rows that refer to them.
    connection.execute("PRAGMA foreign_keys=OFF")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    with engine.connect() as live, live.begin():
        command.upgrade(config_for(live), revision)
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise Failed("database", "the upgrade would break references", why=str(broken[:5]))
    connection.execute("PRAGMA foreign_keys=ON")


def config_for(live: Connection) -> Config:
    """Alembic's configuration for an open connection: no ini file."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = live
    return config


def _begin(live: Connection) -> None:
    live.exec_driver_sql(WRITER)


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. A kernel lock: it dies with its holder; the file stays."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
