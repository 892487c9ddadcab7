"""Files: atomic writes, private folders, free disk space, the id of a home, and the end of a file."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpumod.domain.errors import Failed

HOME_ID_FILE = "home-id"
_HOME_ID = re.compile(r"[0-9a-f]{12}")
_BLOCK = 64 * 1024
_MAX_LINE = 1024 * 1024


def write_atomic(path: Path, text: str, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace `path` by a file that holds `text` in UTF-8: a reader sees the old content or the new, never a part.

    `mode` holds whatever the umask. With `durable` the file and its folder are on the disk when this returns. What root
    writes into another user's folder is that user's. Raises OSError, and then leaves nothing behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fchmod(file.fileno(), mode)
            _leave_to_owner(file.fileno(), path.parent)
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def _leave_to_owner(descriptor: int, folder: Path) -> None:
    """Where root is at work in another user's folder, what `descriptor` is open on becomes that user's."""
    if os.geteuid() == 0 and (owner := folder.stat()).st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_private_dir(path: Path) -> Path:
    """Return `path`, created (with its parents) with mode 0700 where it is not there; one that is there stays as it is.

    One that root makes in another user's folder is that user's. Raises Failed `bad-folder` when it cannot be made, is
    no folder, or belongs to somebody else (root may use it).
    """
    try:
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            path.mkdir(exist_ok=True)  # raises where it is no folder
        else:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _leave_to_owner(descriptor, path.parent)
            finally:
                os.close(descriptor)
        owner = path.stat().st_uid
    except OSError as error:
        raise _bad_folder(path, "cannot be used", error.strerror or str(error)) from error
    if owner != os.geteuid() and os.geteuid() != 0:
        raise _bad_folder(path, "belongs to another user", f"its owner has the user id {owner}")
    return path


def ensure_home(path: Path, *, known_by: Sequence[str]) -> Path:
    """Return the home `path`, created where it is not there. A home that is there (it holds a file that is named in
    `known_by`) stays as it is.

    Raises Failed `bad-folder` as :func:`ensure_private_dir` does, and for a folder that is no home yet and cannot
    become one: everybody may write into it (as into /tmp), or it belongs to somebody else, whoever asks.
    """
    ensure_private_dir(path)
    if any((path / name).exists() for name in known_by):
        return path
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise _bad_folder(path, "belongs to another user", f"its owner has the user id {status.st_uid}")
    if status.st_mode & (stat.S_IWOTH | stat.S_ISVTX):
        raise _bad_folder(path, "is shared with other users", f"its mode is {stat.S_IMODE(status.st_mode):o}")
    return path


def _bad_folder(path: Path, what: str, why: str) -> Failed:
    return Failed(
        "bad-folder",
        f"the folder {path} {what}",
        why=why,
        hint="check its permissions, or choose another home with --home or GPUMOD_HOME",
    )


def free_disk_mb(path: Path) -> int:
    """MiB that a normal user may still write on the file system of `path` (or of its nearest folder that exists)."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    stats = os.statvfs(there)
    return stats.f_bavail * stats.f_frsize // (1024 * 1024)


def home_id(home: Path) -> str:
    """Return the id of a home: 12 hexadecimal digits, made at random on first use and kept in the home (0600).

    Two processes that ask at once get the same. Raises Failed `bad-home-id` for a damaged file, OSError otherwise.
    """
    path = home / HOME_ID_FILE
    if not path.exists():
        draft = home / f".{HOME_ID_FILE}.{secrets.token_hex(4)}"
        write_atomic(draft, secrets.token_hex(6) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    text = path.read_text("utf-8", "replace").strip()
    if not _HOME_ID.fullmatch(text):
        raise Failed(
            "bad-home-id",
            f"the file {path} does not hold the id of a home",
            why="it was damaged or edited",
            hint="put 12 hexadecimal digits into it; processes of this home are known by that id",
        )
    return text


def lines_backwards(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of files from the last to the first. `paths` are the pieces of one text, the newest first.

    Read by blocks, so that the end of a large file is cheap. Undecodable bytes are replaced; what a carriage return
    has overwritten on its line is left out; files that are not there are skipped.
    """
    rest: bytes | None = None  # the beginning of a line whose own beginning was not read yet
    for path in paths:
        for block in _blocks_backwards(path):
            pieces = (block + (rest or b"")).split(b"\n")
            if rest is None and not pieces[-1]:
                pieces.pop()  # the text ends with a newline: that is no empty last line
            yield from map(_decode, reversed(pieces[1:]))
            rest = pieces[0]
            if len(rest) > _MAX_LINE:
                yield _decode(rest)
                rest = b""
    if rest is not None:
        yield _decode(rest)


def _blocks_backwards(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            if block := file.read(end - start):  # nothing, where it was cut short meanwhile
                yield block
            end = start


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")
