"""Making and upgrading the schema with Alembic. Imported only when there is something to do."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from gpumod.adapters.store.connect import WRITER, connect_file
from gpumod.adapters.store.opening import Schema, check_revision, revision_of
from gpumod.domain.errors import Failed


def create_file(path: Path, schema: Schema) -> None:
    """Make a database at `path`, whole or not at all. Does nothing when another process was faster."""
    with _locked(path):
        if path.exists() and path.stat().st_size > 0:
            return
        new = path.with_name(path.name + ".new")
        leftovers = (new, new.with_name(new.name + "-wal"), new.with_name(new.name + "-shm"))
        _remove(leftovers)  # of a process that was killed here
        try:
            _touch_private(new)
            with closing(connect_file(new)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                upgrade(connection, schema)
            new.replace(path)
        finally:
            _remove(leftovers)


def upgrade_file(path: Path, schema: Schema) -> None:
    """Bring the database at `path` to this code's schema, with a backup beside it. Other processes wait."""
    with _locked(path), closing(connect_file(path)) as connection:
        found = revision_of(connection)
        if check_revision(path, found, schema):
            return
        _back_up(connection, path.with_name(f"{path.name}.backup-{found}"))
        upgrade(connection, schema)


def upgrade(connection: sqlite3.Connection, schema: Schema) -> None:
    """Run the migrations up to the head of `schema` in one transaction on an open connection."""
    # Foreign keys are off: a batch migration drops and renames tables, which would delete the rows that refer to them.
    connection.execute("PRAGMA foreign_keys=OFF")
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    with engine.connect() as live, live.begin():
        command.upgrade(config_for(live, schema), schema.head)
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise Failed("database", "the upgrade would break references", why=str(broken[:5]))
    connection.execute("PRAGMA foreign_keys=ON")


def config_for(live: Connection, schema: Schema) -> Config:
    """Alembic's configuration for an open connection: no ini file."""
    config = Config()
    config.set_main_option("script_location", str(schema.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = live
    return config


def _begin(live: Connection) -> None:
    live.exec_driver_sql(WRITER)


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    _touch_private(target)
    try:
        with closing(sqlite3.connect(target)) as copy:
            connection.backup(copy)
    except BaseException:
        target.unlink()  # a part of one would look like a backup
        raise


def _touch_private(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. A kernel lock: it dies with its holder; the file stays."""
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
