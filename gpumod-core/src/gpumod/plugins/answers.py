"""Strangers' drivers and sleep strategies kept to their word: what breaks in one, or answers wrongly, names it.

What they promise is read off their protocols: what methods there are, which of them are awaited, what each answers.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gpumod.domain.errors import Failed, GpumodError
from gpumod.plugins.isolation import reason
from gpumod.ports import (
    ChecksVariables,
    Driver,
    HostsMembers,
    HttpFailure,
    NamesMembers,
    NeedsFormats,
    OffersVariants,
    ReadsItsLog,
    ReportsActivity,
    SleepStrategy,
    SuitsItsProgram,
)
from gpumod.ports.commands import ReadsCommands

POWERS = (
    ChecksVariables,
    HostsMembers,
    NamesMembers,
    NeedsFormats,
    OffersVariants,
    ReadsCommands,
    ReadsItsLog,
    ReportsActivity,
    SuitsItsProgram,
)
PROMISES: Mapping[str, tuple[type, tuple[type, ...]]] = {"driver": (Driver, POWERS), "sleep level": (SleepStrategy, ())}
"""What a thing of each kind has to be, and what it may be besides."""

REFUSE = ("check", "check_variables", "launch", "suited")
"""What says by ValueError that a service cannot be as it is defined."""


class Kept:
    """Stands for `thing`, which is left as it is: has the methods of its protocols, and nothing else of it.

    They raise Failed (`plugin-broken`), which names the thing, where its own raise what they may not, or answer
    something else than is promised. GpumodError passes, HttpFailure where it is awaited, ValueError of :data:`REFUSE`.
    """

    def __init__(self, thing: object, kind: str, name: str, distribution: str) -> None:
        self.name = name
        required, powers = PROMISES[kind]

        def broken(what: str) -> Failed:
            return Failed(
                "plugin-broken",
                f"the {kind} {name!r} of {distribution} is broken: {what}",
                hint=f"update or uninstall {distribution}; `gpumod plugins` shows what else it offers",
                distribution=distribution,
            )

        for protocol in (required, *(power for power in powers if _has(thing, power))):
            for method, promised in vars(protocol).items():
                if not method.startswith("_"):
                    kept = _Method(thing, method, promised, broken)
                    setattr(self, method, kept.wait if kept.is_awaited else kept.call)


def _has(thing: object, power: type) -> bool:
    """Where already looking for its methods breaks, they count as there: they are named when they are needed."""
    try:
        return isinstance(thing, power)
    except (Exception, SystemExit):  # noqa: BLE001 - a stranger's properties
        return True


class _Method:
    """A method of `thing`, looked up at each call, as `promised` by its protocol."""

    def __init__(self, thing: object, name: str, promised: Callable[..., Any], broken: Callable[[str], Failed]) -> None:
        self.thing, self.name, self.broken = thing, name, broken
        self.wanted, self.in_words = _answer_of(promised)
        self.is_awaited = inspect.iscoroutinefunction(promised)
        self.refusals: tuple[type[Exception], ...] = (GpumodError,)
        if self.is_awaited:
            self.refusals += (HttpFailure,)
        if name in REFUSE:
            self.refusals += (ValueError,)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        with self._named():
            return self._right(getattr(self.thing, self.name)(*args, **kwargs))

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._named():
            answer = getattr(self.thing, self.name)(*args, **kwargs)
            if not inspect.isawaitable(answer):
                raise self.broken(f"{self.name} answered {_said(answer)}, which cannot be awaited")
            return self._right(await answer)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self.refusals:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and self.is_awaited and _is_cancelled():
                raise
            raise self.broken(f"{self.name}: {reason(exc)}") from exc

    def _right(self, answer: Any) -> Any:
        if _fits(answer, self.wanted):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()  # nobody awaits it
        raise self.broken(f"{self.name} answered {_said(answer)}, not {self.in_words}")


def _is_cancelled() -> bool:
    """Whether this task is to end. Where it is not, a driver let out the end of a task of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@functools.cache
def _answer_of(promised: Callable[..., Any]) -> tuple[Any, str]:
    """The type that a method of a protocol answers, and how it is written there."""
    return get_type_hints(promised)["return"], inspect.get_annotations(promised)["return"]


def _fits(answer: Any, wanted: Any) -> bool:
    """Whether `answer` is of the type `wanted`, as far as protocols say it. What answers None is not looked at."""
    kind, of = get_origin(wanted), get_args(wanted)
    if kind is UnionType:
        return any(isinstance(answer, one) for one in of)
    if kind is Sequence:
        is_text = isinstance(answer, str | bytes)
        return isinstance(answer, Sequence) and not is_text and all(_fits(one, of[0]) for one in answer)
    if kind is Mapping:
        return isinstance(answer, Mapping) and all(
            _fits(key, of[0]) and _fits(value, of[1]) for key, value in answer.items()
        )
    return not inspect.isawaitable(answer) if wanted is NoneType else isinstance(answer, wanted)


def _said(answer: Any) -> str:
    """The type of an answer, and of what it holds: its values may be secret."""
    kind = type(answer).__name__
    held = sorted({type(one).__name__ for one in answer}) if isinstance(answer, list | tuple) else []
    return f"{kind} of {' and '.join(held)}" if held else kind
