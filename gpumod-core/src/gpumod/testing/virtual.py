"""Virtual time: an event loop on which waiting costs nothing, so that a minute's switch is tested in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

EPOCH_S = 1_700_000_000.0
STUCK_S = 5.0
"""A loop on which nothing is due waits so long, in real time, before it says that it is stuck."""


class VirtualClock:
    """A clock that moves on only when everybody waits. `time_s` is its monotonic reading, in seconds; for the time of
    day, which may be set, `ahead_s` is added to it.

    Its `sleep` has to be awaited inside :meth:`run`, where every other waiting (`asyncio.wait_for` and the like) is
    virtual too, sleepers wake in the order of their times, and `asyncio.to_thread` works at once on the same thread.
    """

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.ahead_s = 0.0

    def now(self) -> float:
        return EPOCH_S + self.ahead_s + self.time_s

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end in virtual time, and end what it left behind."""
        loop = _VirtualLoop(self)
        loop.set_default_executor(_AtOnce())
        try:
            return loop.run_until_complete(work)
        finally:
            try:
                loop.run_until_complete(_end(asyncio.all_tasks(loop)))
            finally:
                loop.close()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._virtual.time_s


class _Selector(selectors.DefaultSelector):
    """Where the loop would wait, the clock is moved on instead. Signals still arrive: they come through a file."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None else STUCK_S)
        if not ready and timeout is None:
            raise RuntimeError("everything waits for something that cannot happen")
        if not ready and timeout is not None and timeout > 0:
            self._clock.time_s += timeout
        return ready


class _AtOnce(ThreadPoolExecutor):
    """Does the work when it is submitted: with other threads about, nobody could tell when all are waiting."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # it is handed on to whoever waits for the result
            future.set_exception(error)
        return future
