"""Texts of the command line into values: KEY=VALUE, SERVICE=TOKENS, a,b,c, NAME:MB. Errors name what was wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

MAX_FILE = 4 * 1024 * 1024


class Folder(click.Path):
    """A folder; an empty name is none (as of a variable that is not set), and not the one that one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name of the folder is empty", param, ctx)
        return super().convert(value, param, ctx)


def read_text(file: str, kind: str = "a text file") -> tuple[str, str]:
    """The text of a file (`-`: of stdin) and its name for messages; `kind` says what file it should be.

    Raises UsageError `bad-file` for what is no text file.
    """
    from gpumod.domain.errors import UsageError  # `--help` does without pydantic

    name, hint = "stdin" if file == "-" else file or "''", f"name {kind} that can be read, or - for stdin"
    try:
        if file == "-":
            content = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise UsageError("bad-file", f"{name} is larger than {MAX_FILE // 1024} KiB", hint=hint)
        if b"\0" in content:
            raise UsageError("bad-file", f"{name} is no text file", why="it holds a zero character", hint=hint)
        return content.decode(), name
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError("bad-file", f"{name} cannot be read", why=why, hint=hint) from error


def split_list(text: str) -> tuple[str, ...]:
    """`a, b,c` as ("a", "b", "c"); an empty text is no name at all."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def key_value(text: str) -> tuple[str, Any]:
    """`KEY=VALUE`. VALUE that is JSON (a number, true, false, null, "text", a list, an object) is that, else text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise click.BadParameter(f"{text!r:.100} is not KEY=VALUE", param_hint="--set")
    return key.strip(), _json_or_text(value)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        return value


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are words here: JSON has neither."""
    raise ValueError(name)


def key_values(texts: Iterable[str]) -> dict[str, Any]:
    """Several KEY=VALUE; a key given twice is an error."""
    return _distinct((key_value(text) for text in texts), "--set")


def number_of(text: str, hint: str, example: str = "chat=16384 or chat=16k") -> tuple[str, int]:
    """`SERVICE=N`; N is a whole number, or one with `k` for times 1024 (`16k`)."""
    name, equals, number = text.rpartition("=")
    factor = 1024 if number[-1:] in ("k", "K") else 1
    digits = number[:-1] if factor > 1 else number
    if not equals or not name or not (digits.isascii() and digits.isdigit()):
        raise click.BadParameter(f"{text!r:.100} is not SERVICE=NUMBER (as in {example})", param_hint=hint)
    return name.strip(), int(digits) * factor


def numbers_of(texts: Iterable[str], hint: str, *example: str) -> dict[str, int]:
    """Several SERVICE=N; a service given twice is an error."""
    return _distinct((number_of(text, hint, *example) for text in texts), hint)


def gpu_indices(text: str) -> str | tuple[int, ...]:
    """`any`, or indices as in `0,1`."""
    parts = split_list(text)
    if parts == ("any",):
        return "any"
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r:.100} is neither 'any' nor indices as in 0,1", param_hint="--gpus")
    return tuple(int(part) for part in parts)


def sim_cards(text: str) -> tuple[tuple[str, int], ...]:
    """`NAME:MB[,NAME:MB]`, the cards of a simulated machine. A NAME may hold colons and blanks, but no comma."""
    cards = []
    for part in split_list(text):
        name, _, size = part.rpartition(":")
        if not name.strip() or not (size.isascii() and size.isdigit()):
            raise click.BadParameter(f"{part!r:.100} is not NAME:MB (as in 'RTX 4090:24564')", param_hint="--sim")
        cards.append((name.strip(), int(size)))
    if not cards:
        raise click.BadParameter("names no card (as in 'RTX 4090:24564')", param_hint="--sim")
    return tuple(cards)


def _distinct(pairs: Iterable[tuple[str, Any]], hint: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise click.BadParameter(f"{key!r:.100} is given twice", param_hint=hint)
        found[key] = value
    return found
