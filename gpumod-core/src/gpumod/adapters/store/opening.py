"""Opening the database: made when it is not there, upgraded when it is older, refused when it is newer or foreign.

Opening one that is up to date reads a single row and never imports Alembic.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from gpumod.adapters.folders import refuse_links
from gpumod.adapters.store.connect import (
    BUSY_TIMEOUT_MS,
    Database,
    connect_file,
    file_engine,
    memory_connection,
    memory_engine,
)
from gpumod.adapters.store.faults import from_os, not_a_database, translated
from gpumod.adapters.store.faults import read_only as refuse_writing
from gpumod.domain.errors import Failed, MachineLacks


class Schema(NamedTuple):
    """Where the migrations lie, and every revision that they lead through, oldest first."""

    folder: Path
    revisions: tuple[str, ...]

    @property
    def head(self) -> str:
        return self.revisions[-1]


SCHEMA = Schema(Path(__file__).with_name("migrations"), ("0001", "0002", "0003", "0004", "0005"))
"""The schema that this code works with. It is said here too so that opening need not ask Alembic."""

BESIDE = ("-wal", "-shm", "-journal")
"""The ends of the names of what SQLite keeps beside a database."""


def open_database(path: Path, *, read_only: bool = False, schema: Schema = SCHEMA) -> Database:
    """Open the database at `path`, which need not be there yet.

    Where nothing can be written (or `read_only`, or the disk is full), an absent database reads as an empty one, and
    an older one is read as an upgraded copy in memory. Raises Failed(`not-a-database` | `database-too-new` |
    `database` | `bad-folder`).
    """
    refusal = refuse_writing(path, "it was opened for reading only") if read_only else _why_not_writable(path)
    with translated(path):
        _refuse_links(path)
        present = _is_there(path)
        if refusal is None:
            try:
                with translated(path):
                    return _open_for_writing(path, schema, present=present)
            except MachineLacks as error:  # a full disk has no room for what SQLite makes beside the file either
                if error.code != "disk-full":
                    raise
                return _open_copy(path, error, schema, _read_alone(path) if present else None)
        return _open_for_reading(path, refusal, schema, present=present)


def _open_for_writing(path: Path, schema: Schema, *, present: bool) -> Database:
    if not present:
        _create(path, schema)
    database = Database(file_engine(path), path)
    try:
        if _is_current(database, schema):
            _keep_private(path)
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    from gpumod.adapters.store.migrate import upgrade_file  # noqa: PLC0415  # imports Alembic

    upgrade_file(path, schema)
    return Database(file_engine(path), path)


def check_revision(path: Path, found: str | None, schema: Schema) -> bool:
    """True when `found` is the head of `schema`, False when it is an older revision.

    Raises Failed when the database is newer than the code, or nobody's that we know.
    """
    if found is None:
        raise not_a_database(path, "it is an SQLite database that somebody else made")
    if found not in schema.revisions:
        raise Failed(
            "database-too-new",
            f"{path} was made by a newer gpumod (schema {found}; this one knows up to {schema.head})",
            why="an older program could damage it",
            hint="upgrade gpumod, or use another home with --home or GPUMOD_HOME",
        )
    return found == schema.head


def revision_of(connection: sqlite3.Connection) -> str | None:
    """The schema's revision that a database names, or None when it names none."""
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return row[0] if row else None


def _is_current(database: Database, schema: Schema) -> bool:
    with database.read() as session:
        raw = session.connection().connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)  # noqa: S101  # for the type checker
        return check_revision(database.path, revision_of(raw), schema)


def _is_there(path: Path) -> bool:
    """True for a file with something in it, which SQLite itself will judge; False for none or an empty file.

    It is not opened here: closing a file drops the locks that this process has on it, those of SQLite too, and a
    database that is open without its locks can be damaged by the next writer.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(status.st_mode):
        raise not_a_database(path, "it is a folder")
    if not os.access(path, os.R_OK):
        raise Failed("database", f"{path} cannot be read", hint="look at its owner and mode")
    return status.st_size > 0


def _refuse_links(path: Path) -> None:
    """SQLite opens by paths what root may have been led to by another user: the database, and what it keeps beside."""
    with suppress(FileNotFoundError):
        refuse_links(path.parent, [path.name + end for end in ("", *BESIDE)])


def _why_not_writable(path: Path) -> MachineLacks | None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        said = from_os(path, error)
        if not isinstance(said, MachineLacks):
            raise said from error
        return said
    for place in (path.parent, path):
        if not os.access(place, os.W_OK) and place.exists():
            return refuse_writing(path, f"{place} is not writable for this user")
    return None


def _create(path: Path, schema: Schema) -> None:
    from gpumod.adapters.store.migrate import create_file  # noqa: PLC0415  # imports Alembic

    create_file(path, schema)


def _keep_private(path: Path) -> None:
    status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(0o600)


def _open_for_reading(path: Path, refusal: MachineLacks, schema: Schema, *, present: bool) -> Database:
    if not present:
        return _open_copy(path, refusal, schema, None)
    # Without a write-ahead log nobody is writing, and SQLite need not make one beside the file to read it.
    wal = path.with_name(path.name + "-wal")
    mode = "ro" if wal.exists() else "ro&immutable=1"
    database = Database(file_engine(path, mode), path, refusal)
    try:
        if _is_current(database, schema):
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    return _open_copy(path, refusal, schema, connect_file(path, mode))


def _read_alone(path: Path) -> sqlite3.Connection:
    """A connection that keeps in its own memory what SQLite else shares with others in a file. It keeps them out."""
    connection = connect_file(path)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _patience() -> Callable[[int, int, int], None]:
    """Ends a copy that another program's lock holds up: SQLite itself would try for ever."""
    end = time.monotonic() + BUSY_TIMEOUT_MS / 1000

    def look(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > end:
            raise sqlite3.OperationalError("database is locked")

    return look


def _open_copy(path: Path, refusal: MachineLacks, schema: Schema, source: sqlite3.Connection | None) -> Database:
    """A copy in memory of what `source` (closed here; None: nothing) holds, upgraded where it is older."""
    copy = memory_connection()
    try:
        if source is not None:
            with closing(source):
                source.backup(copy, progress=_patience())
        if source is None or not check_revision(path, revision_of(copy), schema):
            from gpumod.adapters.store.migrate import upgrade  # noqa: PLC0415  # imports Alembic

            upgrade(copy, schema)
    except BaseException:
        copy.close()
        raise
    return Database(memory_engine(copy), path, refusal)
