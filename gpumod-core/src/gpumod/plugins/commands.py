"""What drivers share to read a command line that somebody else wrote."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from gpumod.domain.base import has_control_characters
from gpumod.plugins.kit import refuse_flags

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash"})
CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_META = frozenset("|<>$`&(){};\n")


class Flag(NamedTuple):
    """What a flag means: the field it sets, and the kind of its value. A `switch` has none."""

    field: str
    kind: Literal["text", "int", "float", "switch"] = "text"


def words_from(argv: Sequence[str], program: str) -> tuple[str, ...] | None:
    """The words of `argv` from `program` (by the last part of a path) on: wrappers before it, and a shell's -c, are
    passed over. None where it is not there, or is inside a container."""
    words = tuple(argv)
    if not words or PurePosixPath(words[0]).name in CONTAINERS:
        return None
    if PurePosixPath(words[0]).name in SHELLS and len(words) > 2 and words[1].startswith("-") and "c" in words[1]:
        return words_from(_last_command(words[2]), program)
    for n, word in enumerate(words):
        if PurePosixPath(word).name == program:
            return words[n:]
    return None


def _last_command(text: str) -> Sequence[str]:
    """The last of the commands that `&&` and `;` join, if it is a plain one."""
    last = text.replace("&&", ";").rstrip("; \n").rpartition(";")[2]
    try:
        return () if _META & set(last) else shlex.split(last)
    except ValueError:
        return ()


def read_flags(words: Sequence[str], known: Mapping[str, Flag]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of the `known` flags by field, and all other words as they stand. The last of a flag wins.

    `--flag value`, `--flag=value` and `_` for `-` are understood. A value of another kind stays among the words.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, given = word.partition("=")
        flag = known.get(name.replace("_", "-") if name.startswith("--") else name)
        if flag is None or not word.startswith("-"):
            rest.append(word)
        elif flag.kind == "switch":
            found[flag.field] = True
        elif not equals and not waiting:
            rest.append(word)
        else:
            text = given if equals else waiting.pop(0)
            value = _value(text, flag.kind)
            if value is None:
                rest += [word] if equals else [word, text]
            else:
                found[flag.field] = value
    return found, tuple(rest)


def _value(text: str, kind: str) -> str | int | float | None:
    if kind == "text":
        return text
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        return None


def keep_flags(
    words: Sequence[str], denied: Sequence[str], *, abbreviations: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the words those that may stand in `extra_args`, and the flags that were left out with their values."""
    kept: list[str] = []
    dropped: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("-") and not word[1:2].isdigit():
            try:
                refuse_flags([word], denied, abbreviations=abbreviations)
                dropping = False
            except ValueError:
                dropping = True
                dropped.append(word.partition("=")[0])
        if not dropping and has_control_characters(word):
            dropping = True
            if kept and kept[-1].startswith("-"):
                dropped.append(kept.pop())
        if not dropping:
            kept.append(word)
    return tuple(kept), tuple(dict.fromkeys(dropped))


def gpus_in(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names by index; None where it does not."""
    words = [word.strip() for word in env.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return tuple(map(int, words)) if words and all(word.isdigit() for word in words) else None
