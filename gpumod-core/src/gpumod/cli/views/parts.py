"""The pieces that views are made of: safe texts, plain tables, numbers and times in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gpumod.cli.failures import error_lines
from gpumod.cli.text import safe
from gpumod.domain.errors import ErrorInfo

GAP = 2
FOLDED = 8

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
    "unknown": "yellow",
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


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = (), fold: Iterable[str] = ()
) -> RenderableType:
    """A table without lines, its empty columns left out.

    Columns named in `right` hold numbers; those in `fold` are folded where the width does not suffice.
    """
    cells = [[cell if isinstance(cell, Text) else words("" if cell is None else cell) for cell in row] for row in rows]
    kept = [n for n in range(len(columns)) if n == 0 or any(row[n].plain for row in cells)]
    shown = tuple(tuple(row[n] for n in kept) for row in cells)
    return Sheet(tuple(columns[n] for n in kept), shown, frozenset(right), frozenset(fold))


@dataclass(frozen=True)
class Sheet:
    """Rows under column names; where the width does not suffice for that, each row becomes a list of its cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    right: frozenset[str]
    fold: frozenset[str]

    def least_width(self) -> int:
        """Cells that the columns need without cutting any text; one that folds needs eight."""
        return sum(self._least(n) + GAP for n in range(len(self.columns))) - GAP

    def _least(self, n: int) -> int:
        longest = max([len(self.columns[n]), *(row[n].cell_len for row in self.rows)])
        return min(longest, FOLDED) if self.columns[n] in self.fold else longest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.least_width() > options.max_width:
            yield from self._records()
            return
        made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for n, name in enumerate(self.columns):
            side: Literal["left", "right"] = "right" if name in self.right else "left"
            folds = name in self.fold
            made.add_column(Text(name), justify=side, no_wrap=not folds, min_width=self._least(n), overflow="fold")
        for row in self.rows:
            made.add_row(*row)
        yield made

    def _records(self) -> Iterator[RenderableType]:
        for row in self.rows:
            made = Table.grid(padding=(0, 1, 0, 0))
            made.add_column(no_wrap=True)
            made.add_column(overflow="fold")
            for n, (name, cell) in enumerate(zip(self.columns, row, strict=True)):
                if cell.plain.strip():
                    made.add_row(Text(("  " if n else "") + name.lower(), style="dim"), cell)
            yield made


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
    return Group(*(piece for n, part in enumerate(there) for piece in ((Text(""), part) if n else (part,))))


def stack(*parts: RenderableType | None) -> RenderableType:
    """Parts under each other without a blank line; None is left out."""
    return Group(*(part for part in parts if part is not None))


def mb(value: int | None) -> str:
    """`24564 MiB`; `?` where it is not known."""
    return "?" if value is None else f"{value} MiB"


def seconds(value: float | None) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if value is None:
        return ""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    for size, unit, below_size, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def expected(value: float | None, *, measured: bool) -> str:
    """How long something is expected to take; `~30 s` where that is a guess."""
    return seconds(value) if measured or value is None else f"~{seconds(value)}"


def moment(at: float) -> str:
    """Seconds since the epoch as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def commas(texts: Iterable[object]) -> str:
    return ", ".join(safe(text) for text in texts)
