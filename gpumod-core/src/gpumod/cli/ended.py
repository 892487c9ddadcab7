"""SIGTERM and SIGHUP as an exception, for a command that has to clean up after itself."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
BY_SIGNAL = 128
"""The exit status of what a signal ended is this and the signal's number, as of a shell."""


class Ended(BaseException):
    """A signal asked to end. `exit_code` is 128 and its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = BY_SIGNAL + number


class Endings:
    """Raises :class:`Ended` at the first signal, and nothing after that or after `hold`: cleaning up goes on."""

    def __init__(self) -> None:
        self.held = False

    def hold(self) -> None:
        self.held = True

    def hit(self, number: int, _: FrameType | None) -> None:
        if not self.held:
            self.held = True
            raise Ended(number)


@contextmanager
def signals_raise() -> Iterator[Endings]:
    """Take both signals over. One that was ignored (nohup) stays so."""
    endings = Endings()
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, endings.hit)
    try:
        yield endings
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
