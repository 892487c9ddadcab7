"""The last word: once a change has ended, its result is told and its exit status given, whatever signal still comes."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

USUAL: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class LastWord:
    """Has both signals from the first change on. They end the program as ever, until the change has ended (`due`).

    Who pressed Ctrl-C twice, the second time a moment too late, would else learn nothing of what was done.
    """

    def __init__(self) -> None:
        self.due = False
        self._taken: list[signal.Signals] = []

    def take(self) -> None:
        """Take the signals that are handled as usual. One that was ignored (nohup), or is somebody else's, stays so."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in USUAL.items():
            if signal.getsignal(number) is usual:
                signal.signal(number, self._hit)
                self._taken.append(number)

    def _hit(self, number: int, frame: FrameType | None) -> None:
        if self.due:
            return
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def give_back(self, *, leaving: bool) -> None:
        """Undo `take`. When `leaving`, what is due stays so until the process is gone."""
        for number in self._taken:
            signal.signal(number, signal.SIG_IGN if leaving and self.due else USUAL[number])
        self._taken, self.due = [], False


LAST_WORD = LastWord()
"""That of this process."""
