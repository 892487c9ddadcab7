"""Ctrl-C that comes while a library is calling back into Python, as while validators are built, and is lost there."""

from __future__ import annotations

import signal
import sys
import threading

AGAIN_S = 0.02
"""By then the library has mostly returned; where it has not, the key is lost and told once more."""


def tell_again(lost: sys.UnraisableHookArgs) -> None:
    """Take what Python can raise to nobody (`sys.unraisablehook`): Ctrl-C is told again, all else as ever."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    # from a thread: here it would be raised inside this hook, and lost again
    # as a signal: it ends a wait, and keeps to what is masked, which `interrupt_main` does not
    again = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()
