"""The pieces that views are made of: safe texts, plain tables, numbers and times in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpumod.cli.failures import error_lines
from gpumod.cli.text import safe
from gpumod.domain.errors import ErrorInfo

STATE_STYLES = {
    "running": "green",
    "sleeping": "cyan",
    "starting": "yellow",
    "stopping": "yellow",
    "unhealthy": "red",
    "failed": "red",
    "stopped": "dim",
    "done": "green",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
    "rolled-back": "yellow",
    "half-way": "red",
    "refused": "red",
    "fits": "green",
    "fits-time-shared": "green",
    "nothing-to-do": "green",
    "does-not-fit": "red",
}


def words(value: object, style: str = "") -> Text:
    """One line of text from outside."""
    return Text(safe(value), style=style)


def state(value: object) -> Text:
    """A state, a status or a verdict in its colour."""
    return words(value, STATE_STYLES.get(str(value), ""))


def line(*pieces: object) -> Text:
    """Texts joined as they are; a `Text` keeps its style."""
    joined = Text()
    for piece in pieces:
        joined.append_text(piece if isinstance(piece, Text) else words(piece))
    return joined


def heading(text: str) -> Text:
    return words(text, "bold")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> RenderableType:
    """A table without lines. Columns named in `right` hold numbers; those empty in every row are left out."""
    numbers = set(right)
    cells = [[cell if isinstance(cell, Text) else words("" if cell is None else cell) for cell in row] for row in rows]
    kept = [n for n in range(len(columns)) if n == 0 or any(row[n].plain for row in cells)]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for n in kept:
        is_number = columns[n] in numbers
        made.add_column(Text(columns[n]), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in cells:
        made.add_row(*(row[n] for n in kept))
    return made


def pairs(rows: Mapping[str, object]) -> RenderableType:
    """Names and values under each other; what is empty is left out."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        text = value if isinstance(value, Text) else words("" if value is None else value)
        if text.plain:
            made.add_row(words(name), text)
    return made


def bullets(texts: Iterable[object], style: str = "") -> RenderableType:
    """One line each, folded under itself."""
    made = Table.grid(padding=(0, 1, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for text in texts:
        made.add_row(Text("-", style=style), text if isinstance(text, Text) else words(text, style))
    return made


def problems(errors: Iterable[ErrorInfo]) -> list[RenderableType]:
    """Errors that did not end the command: message, why and hint of each."""
    return [Text("\n".join(error_lines(error)), style="red", overflow="fold") for error in errors]


def blocks(*parts: RenderableType | None) -> RenderableType:
    """Parts under each other, a blank line between; None is left out."""
    there = [part for part in parts if part is not None]
    spaced: list[RenderableType] = []
    for n, part in enumerate(there):
        spaced.append(part if n == 0 else Padding(part, (1, 0, 0, 0)))
    return Group(*spaced)


def stack(*parts: RenderableType | None) -> RenderableType:
    """Parts under each other without a blank line; None is left out."""
    return Group(*(part for part in parts if part is not None))


def mb(value: int | None) -> str:
    """MiB as `24564 MB`; `?` where it is not known."""
    return "?" if value is None else f"{value} MB"


def seconds(value: float | None) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if value is None:
        return ""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    for unit, below, size, part in (("min", "s", 60, 60), ("h", "min", 3600, 60), ("d", "h", 86400, 24)):
        if whole < size * part or unit == "d":
            rest = whole % size // (size // {"min": 60, "h": 60, "d": 24}[unit])
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    raise AssertionError("the last unit returns")


def moment(at: float) -> str:
    """Seconds since the epoch as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def commas(texts: Iterable[object]) -> str:
    return ", ".join(safe(text) for text in texts)
