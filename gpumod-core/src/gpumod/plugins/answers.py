"""Strangers' drivers and sleep strategies kept to their word: what breaks in one, or answers wrongly, names it.

What they promise is read off their protocols: what methods there are, which of them are awaited, what each answers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from gpumod.domain.errors import Failed, GpumodError
from gpumod.plugins.isolation import reason
from gpumod.ports import (
    Driver,
    HostsMembers,
    HttpFailure,
    NamesMembers,
    OffersVariants,
    ReadsItsLog,
    ReportsActivity,
    SleepStrategy,
    SuitsItsProgram,
)
from gpumod.ports.commands import ReadsCommands

POWERS = (
    HostsMembers,
    NamesMembers,
    OffersVariants,
    ReadsCommands,
    ReadsItsLog,
    ReportsActivity,
    SuitsItsProgram,
)
PROMISES: Mapping[str, tuple[type, tuple[type, ...]]] = {"driver": (Driver, POWERS), "sleep level": (SleepStrategy, ())}
"""What a thing of each kind has to be, and what it may be besides."""

REFUSE = ("check", "launch", "suited")
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
                    setattr(self, method, _kept(thing, method, promised, broken))


def _has(thing: object, power: type) -> bool:
    """Where already looking for its methods breaks, they count as there: they are named when they are needed."""
    try:
        return isinstance(thing, power)
    except (Exception, SystemExit):  # noqa: BLE001 - a stranger's properties
        return True


def _kept(
    thing: object, name: str, promised: Callable[..., Any], broken: Callable[[str], Failed]
) -> Callable[..., Any]:
    """`thing.name`, looked up at each call, as `promised` by its protocol."""
    wanted, in_words = _answer_of(promised)
    is_awaited = inspect.iscoroutinefunction(promised)
    passing = (GpumodError, *((HttpFailure,) if is_awaited else ()), *((ValueError,) if name in REFUSE else ()))

    @contextmanager
    def named() -> Iterator[None]:
        try:
            yield
        except passing:
            raise
        except (Exception, SystemExit) as exc:
            raise broken(f"{name}: {reason(exc)}") from exc

    def right(answer: Any) -> Any:
        if not _fits(answer, wanted):
            if inspect.iscoroutine(answer):
                answer.close()  # nobody awaits it
            raise broken(f"{name} answered {_said(answer)}, not {in_words}")
        return answer

    @functools.wraps(promised)
    def called(*args: Any, **kwargs: Any) -> Any:
        with named():
            return right(getattr(thing, name)(*args, **kwargs))

    @functools.wraps(promised)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with named():
            answer = getattr(thing, name)(*args, **kwargs)
            if not inspect.isawaitable(answer):
                raise broken(f"{name} answered {_said(answer)}, which cannot be awaited")
            return right(await answer)

    return awaited if is_awaited else called


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
