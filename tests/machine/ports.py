"""Ports that no other test of this computer uses."""

from __future__ import annotations

import itertools
import os
import socket

PORTS_PER_TEST = 20


class Ports:
    """A block of ports that no other test of this computer uses: an abstract socket is its lock, the kernel's."""

    def __init__(self) -> None:
        for block in itertools.count(os.getpid() * 7):
            first = 12_000 + (block % 960) * PORTS_PER_TEST
            self._lock = socket.socket(socket.AF_UNIX)
            try:
                self._lock.bind(f"\0gpumod-test-ports-{first}")
            except OSError:
                self._lock.close()
                continue
            self.numbers = range(first, first + PORTS_PER_TEST)
            if all(is_free(port) for port in self.numbers):
                return
            self._lock.close()

    def close(self) -> None:
        self._lock.close()


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
