"""Making and upgrading the schema with Alembic. Imported only when there is something to do."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from gpumod.adapters.files import create_private, remove_file
from gpumod.adapters.folders import opened
from gpumod.adapters.store.connect import WRITER, connect_file
from gpumod.adapters.store.opening import BESIDE, Schema, check_revision, revision_of
from gpumod.domain.errors import Failed


def create_file(path: Path, schema: Schema) -> None:
    """Make a database at `path`, whole or not at all. Does nothing when another process was faster."""
    with _locked(path):
        if path.exists() and path.stat().st_size > 0:
            return
        new = path.with_name(path.name + ".new")
        leftovers = (new, new.with_name(new.name + "-wal"), new.with_name(new.name + "-shm"))
        _remove(leftovers)  # of a process that was killed here
        _put_aside(path)
        try:
            _touch_private(new)
            with closing(connect_file(new)) as connection:
                upgrade(connection, schema)
                # last: what is only in a log beside it would be lost where a full disk ends the closing, unsaid
                connection.execute("PRAGMA journal_mode=WAL")
            with opened(path.parent) as folder:
                os.replace(new.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
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
        remove_file(target)  # a part of one would look like a backup
        raise


def _touch_private(path: Path) -> None:
    remove_file(path)
    with opened(path.parent) as folder:
        create_private(path.name, folder).close()


def _put_aside(path: Path) -> None:
    """Rename what SQLite kept beside a database that is lost: it would take that for the new one's, and damage it."""
    when = time.strftime("%Y%m%d-%H%M%S")
    with opened(path.parent) as folder:
        for end in BESIDE:
            with suppress(FileNotFoundError):
                name = path.name + end
                os.rename(name, f"{name}.left-{when}", src_dir_fd=folder, dst_dir_fd=folder)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        remove_file(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. A kernel lock: it dies with its holder; the file stays."""
    name = path.name + ".lock"
    with opened(path.parent) as folder:
        with suppress(FileExistsError):
            create_private(name, folder).close()
        handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
