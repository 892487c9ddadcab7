"""Command lines of the stand-ins, by table. Quicker to import than argparse, and strict as the real programs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class FlagError(Exception):
    """`kind` is `unknown`, `missing` (its value) or `invalid`; `flag` as it was typed."""

    def __init__(self, kind: str, flag: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {flag} {detail}".strip())
        self.kind, self.flag, self.detail = kind, flag, detail


class Flags:
    """What was given: `values` by canonical name, and `rest`, the positional arguments."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[-1]

    def on(self, name: str) -> bool:
        """True for a switch that is on; `--no-name` turns it off."""
        return self.values.get(name, ["false"])[-1] == "true"

    def number(self, name: str, default: float) -> float:
        return float(self.values.get(name, [str(default)])[-1])

    def whole(self, name: str, default: int) -> int:
        return int(self.values.get(name, [str(default)])[-1])


def parse(
    argv: Sequence[str], table: Mapping[str, str], aliases: Mapping[str, str], *, with_equals: bool = True
) -> Flags:
    """Read `argv`. `table` maps a long name (without dashes) to a type.

    The types are `switch` (also as `--no-NAME`), `text`, `int`, `float`, `list` (all words up to the next flag), `end`
    (after it nothing more is read) and choices (`on|off`). `with_equals`: values may also be given as `--NAME=VALUE`.
    Raises FlagError.
    """
    flags = Flags()
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            flags.rest.append(word)
            continue
        typed, has_value, inline = word.partition("=") if with_equals and word.startswith("--") else (word, "", "")
        name = aliases.get(typed, typed.removeprefix("--").replace("_", "-") if typed.startswith("--") else "")
        value = "true"
        if name not in table and name.startswith("no-") and table.get(name[3:]) == "switch":
            name, value = name[3:], "false"
        kind = table.get(name)
        if kind is None:
            raise FlagError("unknown", typed)
        if kind == "switch":
            if has_value:
                raise FlagError("invalid", typed, f"ignored explicit argument '{inline}'")
            flags.values[name] = [value]
        elif kind == "end":
            flags.values[name] = ["true"]
            break
        else:
            flags.values[name] = _values(words, typed, kind, inline if has_value else None)
    return flags


def _values(words: list[str], typed: str, kind: str, inline: str | None) -> list[str]:
    """What a flag is given: from behind its equals sign, or taken from `words`."""
    if inline is None:
        if not words or (words[0].startswith("--") and len(words[0]) > 2):
            raise FlagError("missing", typed)
        inline = words.pop(0)
    values = [inline]
    while kind == "list" and words and not words[0].startswith("-"):
        values.append(words.pop(0))
    for value in values:
        if (kind == "int" and not _is_number(value, int)) or (kind == "float" and not _is_number(value, float)):
            raise FlagError("invalid", typed, f"invalid {kind} value: '{value}'")
        if "|" in kind and value not in kind.split("|"):
            raise FlagError("invalid", typed, f"unknown value: '{value}'")
    return values


def _is_number(text: str, kind: type[int | float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
