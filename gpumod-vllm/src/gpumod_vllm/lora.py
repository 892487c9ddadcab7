"""LoRA adapters: what they are called, where they are, and the flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `--max-lora-rank`."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,99}")


def _adapters(value: Any) -> Any:
    """`NAME=PATH NAME=PATH`, a list of these, or a mapping."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        return value
    found: dict[str, str] = {}
    for word in value:
        name, middle, path = str(word).partition("=")
        if not middle:
            raise ValueError(f"{word!r:.80} must be NAME=PATH")
        if name in found:
            raise ValueError(f"two adapters are called {name!r:.80}")
        found[name] = path
    return found


def _checked(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, path in value.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} cannot name an adapter: it is made of letters, digits and _ . / : @ -")
        if not path or path.startswith("-") or any(sign in path for sign in "=,{") or not path.isprintable():
            raise ValueError(f"the path of adapter {name} may not be {path!r:.80}: vLLM splits at = and ,")
    return value


Adapters = Annotated[Mapping[str, str], BeforeValidator(_adapters), AfterValidator(_checked)]
"""Adapters by the name that requests ask for: a folder on this machine, or a repository of the hub."""


def rank(value: int) -> int:
    if value not in RANKS:
        raise ValueError(f"must be one of {', '.join(map(str, RANKS))}")
    return value


Rank = Annotated[int, AfterValidator(rank)]


def lora_flags(adapters: Mapping[str, str], *, enabled: bool, limits: Mapping[str, int | None]) -> list[str]:
    """`limits` are further flags with their numbers; all of it only where LoRA is on."""
    if not enabled and not adapters:
        return []
    flags = ["--enable-lora"]
    flags += [word for flag, value in limits.items() if value is not None for word in (flag, str(value))]
    return [*flags, "--lora-modules", *(f"{name}={path}" for name, path in adapters.items())] if adapters else flags
