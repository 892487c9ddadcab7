"""gpumod's side of the nursery: it is started when the first shim is wanted, and ended when no run wants one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from gpumod.adapters.process.proc import NONCE_VARIABLE, SHIM_VARIABLE

NURSERY = Path(__file__).with_name("nursery.py")
NONCE_BYTES = 64


class Nursery:
    """A line to one nursery, for threads: it is there while somebody holds it, and from the first use on."""

    def __init__(self, home: Path) -> None:
        self._argv = [sys.executable, "-I", "-S", str(NURSERY), str(home)]
        self._lock = threading.Lock()
        self._holders = 0
        self._line: socket.socket | None = None
        self.pid = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the nursery. When nobody holds it any more it ends; the shims go on."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._end()

    def open(self) -> None:
        """Start it now, if it is held and not there: what is wanted soon is ready then."""
        with self._lock:
            if self._holders and self._line is None:
                self._begin()

    def fork(self, nonce: str, orders: int, answer: int) -> None:
        """Have a shim forked for the run `nonce`, with these descriptors. Raises OSError where no nursery can be."""
        with self._lock:
            try:
                self._send(nonce, orders, answer)
            except OSError:  # somebody ended it
                self._end()
                self._send(nonce, orders, answer)

    def _send(self, nonce: str, orders: int, answer: int) -> None:
        if self._line is None:
            self._begin()
        assert self._line is not None  # noqa: S101  # it was begun just now
        socket.send_fds(self._line, [nonce.encode()], [orders, answer])

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.posix_spawn(
                self._argv[0],
                self._argv,
                {NONCE_VARIABLE: "-" * NONCE_BYTES, SHIM_VARIABLE: "1"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsigmask=(),
                setsigdef=range(1, 32),
            )
        self._line = ours

    def _end(self) -> None:
        if self._line is None:
            return
        self._line.close()
        self._line = None
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)  # it holds nothing that could be lost, and may be stopped
            os.waitpid(self.pid, 0)
