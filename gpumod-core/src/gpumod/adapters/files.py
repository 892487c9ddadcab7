"""Files: atomic writes, private folders, free disk space, the id of a home, and the end of a file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from gpumod.adapters.folders import bad_folder, guest_of, leave_to_owner, opened
from gpumod.domain.errors import Failed

HOME_ID_FILE = "home-id"
_HOME_ID = re.compile(r"[0-9a-f]{12}")
_BLOCK = 64 * 1024
_MAX_LINE = 1024 * 1024


def write_atomic(path: Path, text: str, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace `path` by a file that holds `text` in UTF-8: a reader sees the old content or the new, never a part.

    `mode` holds whatever the umask. With `durable` the file and its folder are on the disk when this returns. What root
    writes into another user's folder is that user's. Raises OSError and what :func:`folders.opened` raises, and then
    leaves nothing behind.
    """
    draft = f".{path.name[:100]}.{secrets.token_hex(8)}.tmp"
    with opened(path.parent) as folder:
        try:
            with create_private(draft, folder) as file:
                file.write(text.encode("utf-8", "surrogateescape"))
                file.flush()
                os.fchmod(file.fileno(), mode)
                if durable:
                    os.fsync(file.fileno())
            os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
            raise
        if durable:
            os.fsync(folder)


def create_private(name: str, folder: int) -> BinaryIO:
    """Make the file `name`, which must not be there, in `folder` (a descriptor), for the folder's owner alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb")
    try:
        leave_to_owner(file.fileno(), folder)
    except BaseException:
        file.close()
        raise
    return file


def remove_file(path: Path) -> None:
    """Remove a file, or a link that is there in its place; does nothing where there is none. Raises as
    :func:`write_atomic`."""
    with contextlib.suppress(FileNotFoundError), opened(path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)


def open_own(path: Path, *, plain: bool = False) -> BinaryIO:
    """Open a file to read it. In another user's folder root reads plain files of that user's alone, and follows no
    link: what only root may read would else end up where that user can read it, and a pipe would keep root waiting.
    With `plain` links and what is no plain file are refused everywhere.
    Raises OSError, and as :func:`write_atomic`."""
    with opened(path.parent) as folder:
        owner = guest_of(folder)
        plain = plain or owner is not None
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW | os.O_NONBLOCK if plain else 0)
        file = os.fdopen(os.open(path.name, flags, dir_fd=folder), "rb")
    status = os.fstat(file.fileno())
    if owner is not None and (status.st_uid != owner or not stat.S_ISREG(status.st_mode)):
        file.close()
        raise PermissionError(errno.EPERM, f"it is no file of the user {owner}, in whose folder it lies", str(path))
    if plain and not stat.S_ISREG(status.st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return file


def open_plain(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a plain file to read it, wherever it lies. What is none is not even opened: a pipe would keep one waiting,
    and devices act on it. Raises OSError, with ELOOP for a link where none is to be followed."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        mode = os.fstat(found).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        try:
            return open(f"/proc/self/fd/{found}", "rb")  # noqa: PTH123 - the file that was looked at
        except OSError as error:
            error.filename = str(path)
            raise
    finally:
        os.close(found)


def ensure_private_dir(path: Path) -> Path:
    """Return `path`, created (with its parents) with mode 0700 where it is not there; one that is there stays as it is.

    One that root makes in another user's folder is that user's. Raises Failed `bad-folder` when it cannot be made, is
    no folder, or belongs to somebody else (root may use it, where no link leads there out of another user's folder).
    """
    try:
        if os.geteuid() == 0:
            with opened(path, make=True):
                return path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # raises where it is no folder
        owner = path.stat().st_uid
    except OSError as error:
        raise bad_folder(path, "cannot be used", error.strerror or str(error)) from error
    if owner != os.geteuid():
        raise bad_folder(path, "belongs to another user", f"its owner has the user id {owner}")
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
        raise bad_folder(path, "belongs to another user", f"its owner has the user id {status.st_uid}")
    if status.st_mode & (stat.S_IWOTH | stat.S_ISVTX):
        raise bad_folder(path, "is shared with other users", f"its mode is {stat.S_IMODE(status.st_mode):o}")
    return path


def free_disk_mb(path: Path) -> int:
    """MiB that a normal user may still write on the file system of `path` (or of its nearest folder that exists)."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    stats = os.statvfs(there)
    return stats.f_bavail * stats.f_frsize // (1024 * 1024)


def home_id(home: Path) -> str:
    """Return the id of a home: 12 hexadecimal digits, made at random on first use and kept in the home (0600).

    Two processes that ask at once get the same. Raises Failed `bad-home-id` for a file that is damaged or cannot be
    read, OSError otherwise.
    """
    path = home / HOME_ID_FILE
    if not path.exists():
        draft = home / f".{HOME_ID_FILE}.{secrets.token_hex(4)}"
        write_atomic(draft, secrets.token_hex(6) + "\n")
        with opened(home) as folder:
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(draft.name, dir_fd=folder)
    why = "it was damaged or edited"
    try:
        with open_own(path) as file:
            text = file.read(_BLOCK).decode("utf-8", "replace").strip()
    except OSError as error:
        text, why = "", error.strerror or str(error)
    if not is_home_id(text):
        raise Failed(
            "bad-home-id",
            f"the file {path} does not hold the id of a home",
            why=why,
            hint="put 12 hexadecimal digits into it; processes of this home are known by that id",
        )
    return text


def is_home_id(text: str) -> bool:
    return _HOME_ID.fullmatch(text) is not None


def lines_backwards(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of files from the last to the first. `paths` are the pieces of one text, the newest first.

    Read by blocks, so that the end of a large file is cheap. Undecodable bytes are replaced; what a carriage return
    has overwritten on its line is left out; files that are not there are skipped. Raises as :func:`open_own`.
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
        file = open_own(path)
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
