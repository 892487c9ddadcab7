"""The machine's lock: one changer per GPU machine, whatever home or user it has.

The kernel's lock on the file decides; it is gone the moment that its holder dies. Who holds it is written into the
file itself (a record beside it could not be replaced by another user in a folder like /tmp) and is believed only
while that process lives; where that cannot be seen (another container's, or hidden), while the lock is held.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from gpumod import ports
from gpumod.adapters.process.proc import boot_id, start_ticks
from gpumod.domain.base import Text, has_control_characters
from gpumod.domain.errors import Busy, Failed

LOCK_FILE = "gpumod.lock"
_MAX_RECORD = 16 * 1024
_PATIENCE_S = 0.1
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Holder(ports.Holder):
    """Who holds the lock, as it is written into it. `pid_started`: kernel clock ticks since boot; `pids` is the
    namespace in which the pid is one."""

    pid_started: int
    pids: int
    boot: Text
    user: Text
    command: Text
    home: Text

    @classmethod
    def current(cls, command: str, home: Path) -> Holder:
        """This process, from now on."""
        pid = os.getpid()
        return cls(
            pid=pid,
            pid_started=start_ticks(pid) or 0,
            pids=_pids(),
            boot=boot_id(),
            user=user_name(),
            command=_printable(command),
            home=_printable(str(home)),
            since=time.time(),
        )

    @property
    def alive(self) -> bool | None:
        """Whether it lives; None where that cannot be seen from here."""
        if self.boot != boot_id():
            return False
        if self.pids != _pids():
            return None
        started = start_ticks(self.pid)
        if started is not None:
            return started == self.pid_started
        try:
            os.kill(self.pid, 0)
        except PermissionError:  # it is there, and /proc hides it from this user
            return None
        except OSError:
            return False
        return None


class MachineLock:
    """The lock of the machine whose folder is `folder`; `folder` is made (shared, sticky) where it is missing.

    Everybody's umask may be 077, and everybody may come first: folder and file are for all, whoever makes them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / LOCK_FILE

    @contextlib.contextmanager
    def acquire(self, holder: Holder) -> Iterator[None]:
        """Hold the lock inside the `with`; never waits for another holder.

        Raises Busy `machine-busy`, which names the holder, and Failed `bad-lock` when the file cannot be used.
        """
        descriptor = self._locked()
        try:
            with contextlib.suppress(OSError):  # on a full disk nobody is told who it is; the lock holds all the same
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, holder.model_dump_json().encode(), 0)
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            # A child between its fork and its exec still has the descriptor: unlocking ends the lock for both.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def holder(self) -> Holder | None:
        """Who holds the lock now, as far as it can be told; it is not touched."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            holder = _record(descriptor)
            return holder if holder is not None and holder.alive else None
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        """A descriptor of the lock file that holds the kernel's lock."""
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    return descriptor
            except BlockingIOError:
                error = self._busy(descriptor)
                os.close(descriptor)
                raise error from None
            except OSError as error:
                os.close(descriptor)
                raise self._unusable(error.strerror or str(error)) from error
            os.close(descriptor)  # somebody removed the file meanwhile: lock the new one

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        """Open the lock file, or make it. Links, and files that are not plain or have a second name, are refused."""
        try:
            self._make_folder()
            descriptor = self._there()
            if descriptor is None and (descriptor := self._made()) is None:
                descriptor = self._there()
        except OSError as error:
            why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
            raise self._unusable(why) from error
        if descriptor is None:
            raise self._unusable("it comes and goes")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise self._unusable("it is no plain file with one name")
        if status.st_uid == os.geteuid() and status.st_mode & 0o666 != 0o666:
            os.fchmod(descriptor, 0o666)  # whoever made it was killed just then
        return descriptor

    def _there(self) -> int | None:
        """The lock file; None where there is none. One that another user is just making is waited for."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                # Not O_CREAT: the kernel may refuse that for another user's file in a sticky folder.
                return os.open(self.path, _FLAGS)
            except FileNotFoundError:
                return None
            except PermissionError:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(0.005)

    def _made(self) -> int | None:
        """The lock file, made; None where somebody else was quicker."""
        try:
            descriptor = os.open(self.path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        os.fchmod(descriptor, 0o666)  # whatever the umask
        return descriptor

    def _make_folder(self) -> None:
        """Make the folder, at once as it is to be; one that is there is left as it is."""
        try:
            status = self._folder.lstat()
        except FileNotFoundError:
            parent = self._folder.parent
            missing = [p for p in (parent, *parent.parents) if not p.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)
            draft = Path(tempfile.mkdtemp(prefix=".gpumod-", dir=parent))
            draft.chmod(0o1777)
            try:
                draft.rename(self._folder)
            except OSError:  # somebody else was quicker
                draft.rmdir()
                if not self._folder.is_dir():
                    raise
            return
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
            raise self._unusable("its folder is another user's symbolic link")

    def _unusable(self, why: str) -> Failed:
        return Failed(
            "bad-lock",
            f"the machine's lock {self.path} cannot be used",
            why=why,
            hint="make its folder writable for every user of gpumod, or remove what stands in its place",
        )

    def _busy(self, descriptor: int) -> Busy:
        # The holder writes its name just after it got the lock.
        give_up = time.monotonic() + _PATIENCE_S
        while (holder := _record(descriptor)) is None or holder.alive is False:
            if time.monotonic() >= give_up:
                holder = None
                break
            time.sleep(0.005)
        hint = "wait until it is done, and try again"
        if holder is None:
            return Busy("machine-busy", "another gpumod is changing this machine", why="it did not say who", hint=hint)
        elsewhere = "" if holder.pids == _pids() else " of another container"
        since = time.strftime("%H:%M:%S", time.localtime(holder.since))
        return Busy(
            "machine-busy",
            f"{holder.user} is changing this machine: {holder.command}",
            why=f"process {holder.pid}{elsewhere}, home {holder.home}, since {since}",
            hint=hint,
            holder=holder.model_dump(exclude={"pid_started", "pids", "boot"}),
        )


def _record(descriptor: int) -> Holder | None:
    """The record in the lock file, if it is whole and clean."""
    try:
        return Holder.model_validate(json.loads(os.pread(descriptor, _MAX_RECORD, 0)))
    except (OSError, ValueError, ValidationError):
        return None


def _pids() -> int:
    """The namespace of this process's pids."""
    return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link that leads to no file


def _printable(text: str) -> str:
    return "".join("?" if has_control_characters(c) else c for c in text[:400])


def user_name() -> str:
    """Who runs this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
