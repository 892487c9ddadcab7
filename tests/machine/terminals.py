"""A program on a terminal of its own: what a person sees and types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence

PATIENCE_S = 60.0
CTRL_C, CTRL_D = "\x03", "\x04"
IN_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else a program under nohup never knows that its terminal hung up
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """`argv` in a session of its own on a terminal, where Ctrl-C is a signal, and Ctrl-D the end of input."""

    def __init__(self, argv: Sequence[str], **env: str) -> None:
        self._main, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, *argv],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, **env},
        )
        os.close(terminal)
        self.told = ""
        self._seen = 0

    def wait_for(self, text: str) -> str:
        """Wait until `text` stands on the terminal, after what was waited for before; what came until then."""
        give_up = time.monotonic() + PATIENCE_S
        while (found := self.told.find(text, self._seen)) < 0:
            if not self._read(give_up):
                raise AssertionError(f"{text!r} never came:\n{self.told}")
        piece, self._seen = self.told[self._seen : found], found + len(text)
        return piece

    def type(self, text: str) -> None:
        """Type a text. A Ctrl-C is typed again where nothing comes of it: `input()` does not notice one that comes
        when its prompt stands there and it does not read yet, which is too quick for people."""
        os.write(self._main, text.encode())
        give_up = time.monotonic() + PATIENCE_S
        while text == CTRL_C and not self._reacts() and time.monotonic() < give_up:
            os.write(self._main, text.encode())

    def _reacts(self) -> bool:
        """Whether more than the echo of a key comes within two seconds, or the program lets go."""
        before, give_up = len(self.told), time.monotonic() + 2.0
        while select.select([self._main], [], [], max(0.0, give_up - time.monotonic()))[0]:
            if not self._read(give_up) or self.told[before:].replace("^C", "").strip():
                return True
        return False

    def end(self) -> int:
        """Wait for the end of the program; its exit status."""
        while self._read(time.monotonic() + PATIENCE_S):
            pass
        os.close(self._main)
        return self.process.wait(PATIENCE_S)

    def _read(self, give_up: float) -> bool:
        """Take in what comes next; False where the program has let go of the terminal."""
        if not select.select([self._main], [], [], max(0.0, give_up - time.monotonic()))[0]:
            raise AssertionError(f"nothing came any more:\n{self.told}")
        try:
            piece = os.read(self._main, 65536)
        except OSError:  # the terminal has no other end any more
            return False
        self.told += piece.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(piece)
