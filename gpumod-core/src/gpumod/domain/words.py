"""What a validator found, in the words of people: pydantic's own speak of inputs, types and patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumod.domain.base import ID_PATTERN

ID_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or a digit, at most 63"
_LIMITS = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "above"),
           "less_than_equal": ("le", "at most"), "less_than": ("lt", "below")}  # fmt: skip
_KINDS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "string_type": "must be a text",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
_BEGINNINGS = {"int_": "must be a whole number", "float_": "must be a number", "bool_": "must be true or false"}


class NamedTwice(ValueError):
    """A list names something twice. The message says what: the list need not be shown."""


def said(item: Mapping[str, Any]) -> str:
    """What is wrong with a value, as a predicate ("must be at least 1"); `item` is an error of a ValidationError."""
    kind, context = str(item["type"]), item.get("ctx") or {}
    if kind in _LIMITS and _is_nan(item.get("input")):
        return _BEGINNINGS["float_"]  # it is within no limits, which would be told of the wrong one
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        limit = context[key]
        return f"must be {words} {int(limit) if limit == int(limit) else limit}"
    if kind == "string_pattern_mismatch":
        return _asked_for(str(context.get("pattern")))
    if kind in ("literal_error", "enum"):
        return f"must be {context['expected']}"
    for beginning, words in _BEGINNINGS.items():
        if kind.startswith(beginning):
            return words
    return _KINDS.get(kind) or str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")


def _asked_for(pattern: str) -> str:
    """What a text has to be that does not match `pattern`."""
    if pattern == ID_PATTERN:
        return f"is not a name: {ID_RULE}"
    return "must be a path that begins with /" if pattern.startswith("^/") else "must be one plain word"


def _is_nan(value: object) -> bool:
    """True for "nan" in any of its spellings, as a number or as a text."""
    return str(value).strip().lstrip("+-").lower() == "nan"


def field_of(item: Mapping[str, Any]) -> str:
    """The field that `item` is about, with the place inside it ("members.0.service"); empty: the whole value.

    Of a field of several types pydantic puts each of them into the path, and of a key that it is one.
    """
    return ".".join(str(part) for part in item["loc"] if "[" not in str(part))


def findings(items: list[Any]) -> list[tuple[str, str]]:
    """Field and what is wrong with it, each field once: `items` are the errors of a ValidationError."""
    found: dict[str, str] = {}
    for item in items:
        field = field_of(item)
        if field.partition(".")[0] == "gpus":
            field, what = "gpus", "must be 'any' or indices from 0 to 255"
        else:
            what = said(item)
        told = item["type"] == "missing" or isinstance((item.get("ctx") or {}).get("error"), NamedTwice)
        given = "" if told or not field else f" (given: {_shown(item.get('input'))})"
        found.setdefault(field, what + given)
    return list(found.items())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
