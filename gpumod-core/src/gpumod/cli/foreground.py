"""A command in the foreground: it has the terminal, its own streams and the signals; gpumod waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

TIMED_OUT, CANNOT_EXECUTE, NOT_FOUND, KILLED = 124, 126, 127, 128
"""Exit statuses, as of timeout(1), env(1) and the shells; one that a signal ended has 128 and the signal's number."""
PATIENCE_S = 10.0
"""So long a command whose time is over may take to end before it is killed."""

_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SENT_BY_KERNEL = 128
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def cannot_run(name: str) -> int:
    """0, or the exit status of a command that is not there (127) or cannot be executed (126)."""
    if shutil.which(name) is not None:
        return 0
    places = [name] if os.sep in name else [os.path.join(p, name) for p in os.get_exec_path()]  # noqa: PTH118  # an entry of PATH may be empty
    return CANNOT_EXECUTE if any(os.path.lexists(place) for place in places) else NOT_FOUND


@contextlib.contextmanager
def _held(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Let signals wait to be asked for. What came meanwhile is dropped at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        while signal.sigtimedwait(_ASKED, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def unhurried() -> Iterator[list[int]]:
    """Signals do nothing outside of a change, which takes them over: the way back must not be missed. They are noted
    in the list that this gives, those too that a change has heard."""
    from gpumod.engine.interrupts import Noting  # with a change alone

    noting = Noting()
    before = {number: signal.signal(number, noting) for number in _ASKED}
    try:
        yield noting.heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Command:
    """A command as a process of its own, which waits until :meth:`run` lets it begin.

    So a lease can be its from the first moment on, and ends with it, whatever becomes of this process. If this one is
    gone before, it never runs.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        told, self._tell = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)  # what comes before it runs is heard when it does
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child of a program with threads: it only waits
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._tell)
            _become(argv, told, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(told)

    def run(self, env: Mapping[str, str], until: float | None) -> int:
        """Let it run with `env` beside this environment until it ends; its exit status.

        What this process is sent is passed on. A key of the terminal reaches the command by itself: the kernel sends
        that to every process of the terminal. At `until` (seconds since the epoch) it is asked to end, then killed.
        """
        pid = self.pid
        with _held((*_ASKED, signal.SIGCHLD)):
            self._begin(json.dumps(dict(env)).encode())
            deadlines = [] if until is None else [(until, signal.SIGTERM), (until + PATIENCE_S, signal.SIGKILL)]
            late = False
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.pid = 0
                    code = os.waitstatus_to_exitcode(status)
                    return TIMED_OUT if late else code if code >= 0 else KILLED - code
                wait_s = max(0.0, deadlines[0][0] - time.time()) if deadlines else 3600.0
                news = signal.sigtimedwait((*_ASKED, signal.SIGCHLD), min(wait_s, 3600.0))
                if news is None and deadlines and time.time() >= deadlines[0][0]:
                    late = True
                    os.kill(pid, deadlines.pop(0)[1])
                elif news is not None and news.si_signo in _ASKED and news.si_code != _SENT_BY_KERNEL:
                    os.kill(pid, news.si_signo)

    def _begin(self, word: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed before it ran: how is told by its exit status
            os.write(self._tell, word)
        os.close(self._tell)
        self._tell = -1

    def drop(self) -> None:
        """End it if it never ran."""
        if self._tell >= 0:
            self._begin(b"")
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0


def _become(argv: Sequence[str], told: int, mask: Iterable[int]) -> NoReturn:
    """Wait for the word to begin, then be the command."""
    code = CANNOT_EXECUTE
    try:
        word = os.read(told, 65536)
        if not word:
            os._exit(0)
        for number in (*_ASKED, *_IGNORED_BY_PYTHON):
            if number in _IGNORED_BY_PYTHON or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvpe(argv[0], list(argv), {**os.environ, **json.loads(word)})  # noqa: S606  # what the user asks for
    except FileNotFoundError:
        code = NOT_FOUND
    finally:
        os._exit(code)


def wait(until: float, heard: Sequence[int] = ()) -> bool:
    """Wait until then, or until a signal asks to end; True where one did, or was `heard` before."""
    with _held(_ASKED):
        if heard:
            return True
        while (left := until - time.time()) > 0:
            if signal.sigtimedwait(_ASKED, min(left, 3600.0)) is not None:
                return True
    return False
