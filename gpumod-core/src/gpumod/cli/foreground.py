"""A command in the foreground: it has the terminal, its own streams and the signals; gpumod waits for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

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
def _held(signals: Sequence[signal.Signals]) -> Iterator[set[int]]:
    """Let signals wait to be asked for; gives the mask as it was. What came meanwhile is dropped at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield {int(number) for number in mask}
    finally:
        while signal.sigtimedwait(_ASKED, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def unhurried() -> Iterator[list[int]]:
    """Signals do nothing outside of a change, which takes them over: the way back must not be missed. They are noted
    in the list that this gives."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in _ASKED}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Sequence[str], env: Mapping[str, str], until: float | None) -> int:
    """Run `command` with `env` beside this environment until it ends; its exit status.

    What this process is sent is passed on. A key of the terminal reaches the command by itself: the kernel sends that
    to every process of the terminal. At `until` (seconds since the epoch) it is asked to end, then killed.
    """
    with _held((*_ASKED, signal.SIGCHLD)) as mask:
        try:
            pid = os.posix_spawnp(
                command[0], list(command), {**os.environ, **env}, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON
            )
        except OSError as error:
            return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE
        deadlines = [] if until is None else [(until, signal.SIGTERM), (until + PATIENCE_S, signal.SIGKILL)]
        late = False
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return TIMED_OUT if late else code if code >= 0 else KILLED - code
            wait_s = max(0.0, deadlines[0][0] - time.time()) if deadlines else 3600.0
            news = signal.sigtimedwait((*_ASKED, signal.SIGCHLD), min(wait_s, 3600.0))
            if news is None and deadlines and time.time() >= deadlines[0][0]:
                late = True
                os.kill(pid, deadlines.pop(0)[1])
            elif news is not None and news.si_signo in _ASKED and news.si_code != _SENT_BY_KERNEL:
                os.kill(pid, news.si_signo)


def wait(until: float, heard: Sequence[int] = ()) -> bool:
    """Wait until then, or until a signal asks to end; True where one did, or was `heard` before."""
    with _held(_ASKED):
        if heard:
            return True
        while (left := until - time.time()) > 0:
            if signal.sigtimedwait(_ASKED, min(left, 3600.0)) is not None:
                return True
    return False
