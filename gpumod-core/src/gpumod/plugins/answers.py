"""Strangers' drivers and sleep strategies kept to their word: what breaks in one, or answers wrongly, names it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType
from typing import Any

from gpumod.domain.activity import Activity
from gpumod.domain.errors import Failed, GpumodError
from gpumod.domain.plan import Variant
from gpumod.plugins.isolation import reason
from gpumod.ports import Capabilities, FatalLine, Launch, ProbeResult
from gpumod.ports.commands import Told
from gpumod.ports.launch import LaunchFile

ANSWERS: Mapping[str, tuple[type, ...]] = {
    "check": (object,),
    "capabilities": (Capabilities,),
    "launch": (Launch,),
    "probe": (ProbeResult,),
    "activity": (Activity, NoneType),
    "fatal_line": (FatalLine, NoneType),
    "variants": (tuple,),
    "members_file": (LaunchFile, NoneType),
    "members": (Mapping,),
    "member_name": (str,),
    "read_command": (Told, NoneType),
    "questions": (tuple,),
    "suited": (object,),
    "reload": (object,),
    "load": (object,),
    "unload": (object,),
    "residue_mb": (int, NoneType),
    "ram_mb": (int, NoneType),
    "sleep": (object,),
    "wake": (object,),
}
"""What each method of a driver or a sleep strategy answers. `object`: nobody looks at it, or it is looked at closer."""


def keep_to_answers(thing: object, who: str, distribution: str) -> None:
    """Make the methods of `thing` raise Failed (`plugin-broken`), which names `who`, where they break.

    GpumodError and ValueError, by which a driver refuses, pass; so does whatever an asynchronous method raises short of
    SystemExit: a server may fail, too. An object that takes no attributes is left as it is.
    """

    def broken(what: str) -> Failed:
        return Failed(
            "plugin-broken",
            f"{who} is broken: {what}",
            hint=f"update or uninstall {distribution}; `gpumod plugins` shows what else it offers",
            distribution=distribution,
        )

    for name, wanted in ANSWERS.items():
        method = getattr(thing, name, None)
        if callable(method):
            with suppress(AttributeError, TypeError):
                object.__setattr__(thing, name, _kept(name, method, wanted, broken))


def _kept(
    name: str, method: Callable[..., Any], wanted: tuple[type, ...], broken: Callable[[str], Failed]
) -> Callable[..., Any]:
    def right(answer: Any) -> Any:
        fits = isinstance(answer, wanted)
        if name == "variants" and not (fits and all(isinstance(one, Variant) for one in answer)):
            raise broken("variants answered something else than a tuple of Variant")
        if not fits:
            names = " or ".join("None" if one is NoneType else one.__name__ for one in wanted)
            raise broken(f"{name} answered {type(answer).__name__}, not {names}")
        return answer

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = method(*args, **kwargs)
        except (GpumodError, ValueError):
            raise
        except (Exception, SystemExit) as exc:
            raise broken(f"{name}: {reason(exc)}") from exc
        return right(answer)

    @functools.wraps(method)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = await method(*args, **kwargs)
        except SystemExit as exc:
            raise broken(f"{name}: {reason(exc)}") from exc
        return right(answer)

    return awaited if inspect.iscoroutinefunction(method) else called
