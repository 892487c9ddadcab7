"""The machine's lock: one changer per GPU machine, whatever home or user it has.

The kernel's lock on the file decides; it is gone the moment that its holder dies. Who holds it is written into the
file itself (a record beside it could not be replaced by another user in a folder like /tmp) and is believed only
while that process lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from gpumod import ports
from gpumod.adapters.process.proc import start_ticks
from gpumod.domain.base import Text, has_control_characters
from gpumod.domain.errors import Busy, Failed

LOCK_FILE = "gpumod.lock"
_MAX_RECORD = 16 * 1024
_PATIENCE_S = 0.1


class Holder(ports.Holder):
    """Who holds the lock, as it is written into it. `pid_started`: kernel clock ticks since boot."""

    pid_started: int
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
            user=user_name(),
            command=_printable(command),
            home=_printable(str(home)),
            since=time.time(),
        )

    @property
    def alive(self) -> bool:
        return start_ticks(self.pid) == self.pid_started


class MachineLock:
    """The lock of the machine whose folder is `folder`; `folder` is made (shared, sticky) where it is missing."""

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
            return _record(descriptor)
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
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._make_folder()
            try:
                # Not O_CREAT: the kernel may refuse that for another user's file in a sticky folder.
                descriptor = os.open(self.path, flags)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                    os.fchmod(descriptor, 0o666)  # whatever the umask: other users share it
                    return descriptor
                descriptor = os.open(self.path, flags)
        except OSError as error:
            why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
            raise self._unusable(why) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise self._unusable("it is no plain file with one name")
        return descriptor

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True)
        except FileExistsError:
            status = self._folder.lstat()
            if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
                raise self._unusable("its folder is another user's symbolic link") from None
        else:
            self._folder.chmod(0o1777)

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
        while (holder := _record(descriptor)) is None and time.monotonic() < give_up:
            time.sleep(0.005)
        hint = "wait until it is done, and try again"
        if holder is None:
            return Busy("machine-busy", "another gpumod is changing this machine", why="it did not say who", hint=hint)
        since = time.strftime("%H:%M:%S", time.localtime(holder.since))
        return Busy(
            "machine-busy",
            f"{holder.user} is changing this machine: {holder.command}",
            why=f"process {holder.pid}, home {holder.home}, since {since}",
            hint=hint,
            holder=holder.model_dump(exclude={"pid_started"}),
        )


def _record(descriptor: int) -> Holder | None:
    """The record in the lock file, if it is whole, clean and of a process that lives."""
    try:
        holder = Holder.model_validate(json.loads(os.pread(descriptor, _MAX_RECORD, 0)))
    except (OSError, ValueError, ValidationError):
        return None
    return holder if holder.alive else None


def _printable(text: str) -> str:
    return "".join("?" if has_control_characters(c) else c for c in text[:400])


def user_name() -> str:
    """Who runs this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
