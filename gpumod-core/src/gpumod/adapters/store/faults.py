"""Errors of SQLite and of the file system, said in gpumod's words."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from gpumod.domain.errors import Failed, GpumodError, MachineLacks

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_HARDLY_ANY_BYTES = 1 << 20


def read_only(path: Path, why: str) -> MachineLacks:
    """The error for a change where nothing can be written."""
    return MachineLacks(
        "read-only-home",
        f"gpumod's data in {path.parent} cannot be changed",
        why=why,
        hint="make the folder writable for this user, or use another one with --home or GPUMOD_HOME",
    )


def not_a_database(path: Path, why: str) -> Failed:
    """The error for a file that is not gpumod's database. The file is left as it is."""
    return Failed(
        "not-a-database",
        f"{path} is not gpumod's database",
        why=why,
        hint=f"move the file away, with {path.name}-wal and {path.name}-shm where they are, or use another home with"
        " --home or GPUMOD_HOME; a backup may lie beside it",
    )


def from_os(path: Path, error: OSError) -> GpumodError:
    """The error for a failed file operation."""
    if error.errno in _READ_ONLY:
        return read_only(path, str(error))
    if error.errno in _FULL:
        return disk_full(path, str(error))
    return Failed("database", f"{path} cannot be used", why=str(error), hint="look at the path and its owner")


def from_sqlite(path: Path, error: BaseException) -> GpumodError:
    """The error for what SQLite reported."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _free_bytes(path) < _HARDLY_ANY_BYTES):
        return disk_full(path, str(error))
    if name.startswith("SQLITE_READONLY"):
        return read_only(path, str(error))
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return not_a_database(path, str(error))
    return Failed(
        "database",
        f"the database {path} cannot be used",
        why=f"{error} ({name})" if name else str(error),
        hint="put a copy of it back (a backup may lie beside it); else move it away, and `gpumod apply` what `gpumod"
        " export` once wrote",
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Let errors of SQLite and of the file system leave the block as :class:`GpumodError`."""
    try:
        yield
    except DBAPIError as error:
        raise from_sqlite(path, error.orig or error) from error
    except sqlite3.Error as error:
        raise from_sqlite(path, error) from error
    except OSError as error:
        raise from_os(path, error) from error


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return _HARDLY_ANY_BYTES


def disk_full(path: Path, why: str) -> MachineLacks:
    """The error for a change where the disk has no room for it."""
    return MachineLacks(
        "disk-full", f"no room left on the disk of {path.parent}", why=why, hint="free some disk space and try again"
    )
