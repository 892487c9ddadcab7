"""Folders by descriptor: what is written through one lands in that folder, whatever becomes of its path meanwhile.

Root may work in another user's home, and that user can put links in place of folders there at any time. So root enters
a path step by step, and out of a user's folder comes only into that user's: what systemd-tmpfiles calls a safe path.
Links of root's own are entered the same way: they may lead through a user's folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpumod.domain.errors import Failed

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""On the way nothing is read: root of a container may have no right to."""
_LINKS = 40
"""So many of root's may lead from one to the next: as many as the kernel follows."""


class _NotThere(FileNotFoundError):
    """There is nothing at a path; whoever is its `owner` could put something there."""

    def __init__(self, error: FileNotFoundError, owner: int) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.owner = owner


@contextlib.contextmanager
def opened(path: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `path`. With `make` root makes what is missing of it: the last folder with mode 0700,
    each for the owner of the one that it lies in.

    Raises OSError, and Failed `bad-folder` where root would come out of another user's folder into somebody else's.
    Users who are not root go where the system lets them.
    """
    if os.geteuid() == 0:
        there, _ = _walked(path.absolute(), make=make)
        try:
            descriptor = os.open(".", _FOLDER, dir_fd=there)
        finally:
            os.close(there)
    else:
        descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def owner_of(path: Path) -> int:
    """The user id of whoever says what is at `path`; of who asks where nothing is there.

    For root that is the last owner on the way who is not root: a folder of root's can be moved to where that user wants
    it, and what is not there can be there at the next look. Raises as :func:`opened`.
    """
    if os.geteuid() != 0:
        return path.stat().st_uid if path.exists() else os.geteuid()
    try:
        descriptor, owner = _walked(path.absolute(), make=False)
    except _NotThere as error:
        return error.owner
    os.close(descriptor)
    return owner


def guest_of(folder: int) -> int | None:
    """The user id of the owner of `folder` (a descriptor) where that is somebody else than root at work; else None."""
    owner = os.fstat(folder).st_uid
    return owner if os.geteuid() == 0 and owner != 0 else None


def leave_to_owner(descriptor: int, folder: int) -> None:
    """Where root is at work in another user's `folder`, what `descriptor` is open on becomes that user's."""
    if (owner := guest_of(folder)) is not None:
        os.fchown(descriptor, owner, os.fstat(folder).st_gid)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raise Failed `bad-folder` where root is at work in another user's `folder`, and one of `names` in it is no plain
    file of that user's: for files that a library opens by their path. Raises OSError where there is no such folder."""
    with opened(folder) as descriptor:
        if (owner := guest_of(descriptor)) is None:
            return
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    raise bad_folder(folder / name, "is not used by root", "it is a link in another user's folder")
                if not stat.S_ISREG(status.st_mode) or status.st_uid != owner:
                    why = f"it is no file of the user {owner}, in whose folder it lies"
                    hint = f"if it is meant to be there: chown --reference={folder} {folder / name}"
                    raise bad_folder(folder / name, "is not used by root", why, hint)


def bad_folder(path: Path, what: str, why: str, hint: str = "") -> Failed:
    hint = hint or "check its permissions, or choose another home with --home or GPUMOD_HOME"
    return Failed("bad-folder", f"the folder {path} {what}", why=why, hint=hint)


def _walked(path: Path, *, make: bool, links: int = _LINKS) -> tuple[int, int]:
    """A descriptor of `path`, as root comes there, and the last owner on the way who is not root (0: there is none)."""
    owner = 0  # of the last folder that was not root's: from there on somebody else says what lies where
    here = os.open(path.anchor, _STEP)
    try:
        for depth, name in enumerate(path.parts[1:], 2):
            try:
                there = _below(here, name, 0o700 if depth == len(path.parts) else 0o777, make=make)
                if followed := there is None and owner != 0:
                    there = os.open(name, _STEP, dir_fd=here)
            except FileNotFoundError as error:
                raise _NotThere(error, owner) from error
            if there is None:
                target = _target(Path(*path.parts[: depth - 1]), name, here, links)
                there, owner = _walked(target, make=False, links=links - 1)
            os.close(here)
            here = there
            found = os.fstat(here).st_uid
            # A folder of root's that really lies there was put there by root; a link's target may lie anywhere.
            if owner and found != owner and (found or followed or name == ".."):
                place, what = Path(*path.parts[:depth]), "a link to a folder" if followed else "a folder"
                why = f"it is {what} of the user {found}, and lies in one of the user {owner}"
                raise bad_folder(place, "is not entered by root", why, f"see ls -ld {place}")
            owner = found or owner
    except BaseException:
        os.close(here)
        raise
    return here, owner


def _target(place: Path, name: str, folder: int, links: int) -> Path:
    """Where the link `name` in `folder`, which is at `place`, leads; `links` more may be followed.

    Raises NotADirectoryError for what is no link, and as the kernel does (fs.protected_symlinks) PermissionError for
    somebody's where anybody may put one.
    """
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place / name))
    if not links:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place / name))
    if status.st_uid != 0 and os.fstat(folder).st_mode & stat.S_IWOTH:
        why = f"a link of the user {status.st_uid} where anybody may put one"
        raise PermissionError(errno.EACCES, why, str(place / name))
    return place / os.readlink(name, dir_fd=folder)


def _below(folder: int, name: str, mode: int, *, make: bool) -> int | None:
    """A descriptor of the folder `name` in `folder`; None where a link is there, or a file."""
    try:
        return os.open(name, _STEP | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:  # this is how the kernel tells of a link too
        return None
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
    made = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    leave_to_owner(made, folder)
    return made
