"""Ctrl-C and SIGTERM: the first turns a run back, the second leaves it as it is. SIGHUP: it goes on alone."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gpumod.domain.errors import Interrupted, Terminated

T = TypeVar("T")

SAME_S = 0.05
"""A signal so soon after another is that one, told twice: `timeout` gives it to its child and to the child's group."""


class Noting:
    """A handler that notes which signals came, those too that a change has taken over meanwhile: one that comes
    at the very end of a change turns nothing back, and would else be lost."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, number: int, _frame: object) -> None:
        self.heard.append(number)


class Interrupts:
    """`event` is set by the first signal; on the way back (`going_back`) only by the second of them all.

    `left` is set by the second in any case: nothing is waited for any more.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.left = asyncio.Event()
        self.count = 0
        self.first = signal.SIGINT
        self._enough = 1

    @property
    def leave(self) -> bool:
        """True after the second signal: leave everything as it is."""
        return self.count >= 2

    def hit(self, number: int = signal.SIGINT) -> None:
        if not self.count:
            self.first = signal.Signals(number)
        self.count += 1
        if self.leave:
            self.left.set()
        if self.count >= self._enough:
            self.event.set()

    def going_back(self) -> None:
        """The first signal asks for the way back, so on it only a second one counts."""
        self._enough = 2
        if not self.leave:
            self.event = asyncio.Event()

    async def spare(self, work: Coroutine[Any, Any, None]) -> bool:
        """Wait for `work`, but not beyond `event`. False when it was given up for that."""
        return await self._until_called(work) is not None

    async def look(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` sees. Raises Interrupted when it was given up for a signal: nothing was changed."""
        seen = await self._until_called(work)
        if seen is None:
            raise self.before_the_first_step()
        return seen[0]

    def before_the_first_step(self) -> Interrupted:
        """The error of a change that a signal ended before it began, with that signal's exit status."""
        kind = Terminated if self.first == signal.SIGTERM else Interrupted
        return kind("interrupted", "interrupted before the first step", why="nothing was changed")

    async def see_through(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives; it is never cut off. To cancel this task is as the first signal, and done when `work` has
        ended."""
        doing, cancelled = asyncio.ensure_future(work), False
        while not doing.done():
            try:
                await asyncio.wait({doing})
            except asyncio.CancelledError:  # some cancel again and again: that asks for nothing more
                if not cancelled:
                    self.hit()
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError from doing.exception()
        return doing.result()

    async def _until_called(self, work: Coroutine[Any, Any, T]) -> tuple[T] | None:
        doing, called = asyncio.ensure_future(work), asyncio.ensure_future(self.event.wait())
        try:
            await asyncio.wait({doing, called}, return_when=asyncio.FIRST_COMPLETED)
            return (await doing,) if doing.done() else None
        finally:
            for task in (doing, called):
                task.cancel()
            await asyncio.gather(doing, called, return_exceptions=True)


@contextmanager
def listening() -> Iterator[Interrupts]:
    """Take over the signals while a change is under way; outside of the main thread there are none to take."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    loop = asyncio.get_running_loop()
    taken = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in (*taken, signal.SIGHUP)}
    heard_at: dict[int, float] = {}

    def note(number: int, frame: object) -> None:
        handler = before[signal.Signals(number)]
        if isinstance(handler, Noting):
            handler(number, frame)

    def hear(number: int, frame: object) -> None:
        note(number, frame)
        now = time.monotonic()
        if now - heard_at.get(number, 0.0) > SAME_S:
            loop.call_soon_threadsafe(interrupts.hit, number)
        heard_at[number] = now

    for number in taken:  # not by the loop: it leaves a moment with the default handler, which ends the process
        if before[number] is not signal.SIG_IGN:  # what a script's background job ignores stays ignored
            signal.signal(number, hear)
    signal.signal(signal.SIGHUP, note)  # not SIG_IGN: that would be inherited by services
    try:
        with _woken(loop):
            yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _woken(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a signal wake `loop` at once: one that another thread is given, or that comes just before the loop begins to
    wait, interrupts no wait, and its handler would run at the next timer. Who has set this up already keeps it."""
    told, tell = socket.socketpair()
    with told, tell:
        for end in (told, tell):
            end.setblocking(False)
        others = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        if others != -1:
            signal.set_wakeup_fd(others)
            yield
            return
        loop.add_reader(told, told.recv, 4096)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(told)
