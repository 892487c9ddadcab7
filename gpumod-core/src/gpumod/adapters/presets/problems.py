"""What is wrong with preset files, in words: file, line, field, and what is allowed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from gpumod.adapters.presets.schema import allowed_keys
from gpumod.adapters.presets.strict_yaml import Document, Loc
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.words import said

BAD_PRESET = "bad-preset"
"""The code of what is wrong with a file."""
BAD_FOLDER = "bad-preset-folder"
"""The code of what is wrong with a folder as a whole."""
MOST = 10
"""So many problems of one file are reported."""


def problem(
    path: Path,
    said: str,
    *,
    code: str = BAD_PRESET,
    line: int | None = None,
    field: str = "",
    hint: str = "",
    **details: Any,
) -> ErrorInfo:
    """A problem of one file. The file is skipped; what it defined before stays as it is."""
    where = f"{path}:{line}" if line else str(path)
    skipped, usual = "the file was skipped", f"`gpumod preset validate {shlex.quote(str(path))}` checks it again"
    if code == BAD_FOLDER:
        skipped, usual = "nothing was read from it", "name a YAML file, or a folder of such files, that can be read"
    return ErrorInfo(
        code=code,
        message=f"{where}: {f'field {field} ' if field else ''}{said}",
        why=f"{skipped}; nothing that it defined before was changed",
        hint=hint or f"{usual}; docs/presets.md explains every key",
        details={"file": str(path), "line": line, "field": field, **details},
    )


def from_validation(
    path: Path, document: Document, kind: Literal["service", "mode"], error: ValidationError
) -> list[ErrorInfo]:
    """The problems that a model found in a file."""
    found = []
    for item in error.errors(include_url=False)[:MOST]:
        loc = item["loc"]
        if loc[:1] == ("gpus",):  # of several types: pydantic puts each of them into the path
            loc = tuple(part for part in loc if isinstance(part, int) or "[" not in part)
        field = ".".join(str(part) for part in loc)
        found.append(problem(path, _said(item, loc, kind), line=document.line_of(loc), field=field))
    return sorted(_distinct(found), key=lambda info: info.details["line"] or 0)


def _said(item: Mapping[str, Any], loc: Loc, kind: Literal["service", "mode"]) -> str:
    if item["type"] == "extra_forbidden":
        known = (
            allowed_keys(kind) if len(loc) == 1 else ("id", "sleep_on_idle", "asleep", "start_order", "idle_timeout")
        )
        close = get_close_matches(str(loc[-1]), known, n=2)
        return "is unknown: " + (f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}")
    if item["type"] == "missing":
        return said(item)
    if loc == ("gpus",):
        return f"must be 'any' or a list of indices, not {_shown(item['input'])}"
    what = said(item)
    return f"{what}, not {_shown(item['input'])}" if loc and not isinstance(item["input"], Mapping) else what


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _distinct(problems: list[ErrorInfo]) -> list[ErrorInfo]:
    """Leave out what is said of a whole where a part of it is named, and what is said of one field again."""
    first = {info.details["field"]: info for info in reversed(problems)}
    return [
        info for field, info in reversed(first.items()) if not any(other.startswith(f"{field}.") for other in first)
    ]
