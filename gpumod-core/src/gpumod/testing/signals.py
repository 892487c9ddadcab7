"""Signals as people send them."""

from __future__ import annotations

import signal
import time

from gpumod.engine.interrupts import SAME_S


def interrupt(number: int = signal.SIGINT) -> None:
    """Send this process a signal that counts: not at once after another, which would be the same one told twice."""
    time.sleep(SAME_S * 1.2)
    signal.raise_signal(number)
