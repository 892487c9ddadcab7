"""Calls that may block for ever: a sick GPU, or a file system that does not answer, must not hang gpumod."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gpumod.domain.errors import GpumodError

T = TypeVar("T")


class Bounded(Generic[T]):
    """Runs a call in a thread of its own for at most `timeout_s` seconds.

    A call that is late is left behind (nothing can end it; being a daemon, it holds up no exit), and while it hangs
    nobody waits for another one. `late` makes the error of such a call from a few words.
    """

    def __init__(self, timeout_s: float, late: Callable[[str], GpumodError]) -> None:
        self._timeout_s = timeout_s
        self._error = late
        self._late: threading.Thread | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Raises what `late` makes when it is late."""
        if self._late is not None and self._late.is_alive():
            raise self._error("still no answer")
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                failed.append(error)

        thread = threading.Thread(target=run, name="bounded", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if failed:
            raise failed[0]
        if not done:
            self._late = thread
            raise self._error(f"no answer in {self._timeout_s:g} s")
        return done[0]
