"""Calls that may block for ever: a sick GPU must not hang gpumod."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gpumod.adapters.nvml.faults import TIMEOUT, driver_error

T = TypeVar("T")


class Bounded(Generic[T]):
    """Runs a call in a thread of its own for at most `timeout_s` seconds.

    A call that is late is left behind (nothing can end it; being a daemon, it holds up no exit), and while it hangs
    nobody waits for another one.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._late: threading.Thread | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Raises MachineLacks `gpu-timeout` when it is late."""
        if self._late is not None and self._late.is_alive():
            raise driver_error(TIMEOUT, "still no answer")
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                failed.append(error)

        thread = threading.Thread(target=run, name="nvml", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if failed:
            raise failed[0]
        if not done:
            self._late = thread
            raise driver_error(TIMEOUT, f"no answer in {self._timeout_s:g} s")
        return done[0]
