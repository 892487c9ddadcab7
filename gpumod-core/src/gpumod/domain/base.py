"""The base of every domain value, and the rules for ids and texts, which are the same at every entrance."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
MAX_TEXT = 4096


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields and serialises to JSON.

    Its validator is built when first used: a command needs few of the many models that it imports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants", defer_build=True)


def has_control_characters(text: str) -> bool:
    """True for C0/C1 controls, DEL, line and paragraph separators, surrogates and bidi overrides."""
    if text.isprintable():  # at once, for nearly all
        return False
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\u200d" for c in text)


def clean_text(text: str) -> str:
    """Return `text`, or raise ValueError when it is too long or holds control characters."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"is {len(text)} characters long; at most {MAX_TEXT} are allowed")
    if has_control_characters(text):
        raise ValueError("contains control characters (a newline, a tab, an escape or the like)")
    return text


def clean_json(value: Any) -> Any:
    """Apply :func:`clean_text` to every string (keys too) inside a JSON value."""
    if isinstance(value, str):
        clean_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            clean_text(key)
            clean_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            clean_json(item)
    return value


def is_id(text: str) -> bool:
    """True when `text` may name a service, a mode or a role."""
    return re.fullmatch(ID_PATTERN[1:-1], text) is not None


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  # pydantic collects ValueError
    return value


Number = BeforeValidator(_no_truth)
"""Marks a number: YAML's `yes` and `on` are truth values, which pydantic would take for 1."""
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Text = Annotated[str, AfterValidator(clean_text)]
