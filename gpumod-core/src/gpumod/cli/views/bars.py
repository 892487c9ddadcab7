"""VRAM drawn to scale: pure functions from segments to lines of styled text.

In colour a segment is a coloured block with its label inside; plain, each has a fill character of its own. Both have a
legend, so that a segment too narrow for its label is still named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from textwrap import wrap

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gpumod.cli.text import safe

FILLS = "#=+%o*x&@$"
FOREIGN_FILL, RESERVE_FILL, FREE_FILL = "?", "/", "."
COLOURS = ("blue", "green", "yellow", "cyan", "magenta", "bright_blue", "bright_green", "bright_yellow", "bright_cyan")
GUTTER = 5
MIN_WIDTH = 40
"""Below that nothing is drawn: the numbers are told alone."""


@dataclass(frozen=True)
class Segment:
    """MiB that one service holds."""

    label: str
    mb: int
    asleep: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar: services side by side, then what is not ours."""

    label: str
    segments: tuple[Segment, ...]
    foreign_mb: int = 0


@dataclass(frozen=True)
class Piece:
    """A part of a bar as it is drawn; `fill` stands for it where there is no colour."""

    label: str
    mb: int
    cells: int
    fill: str
    style: str
    asleep: bool = False


def apportion(parts: Sequence[int], width: int) -> list[int]:
    """Cells for each part: they sum to `width`, follow the scale, and no part above 0 gets none while that is possible.

    With all parts 0 every cell is given to the last one.
    """
    total = sum(parts)
    if not parts:
        return []
    if total <= 0:
        return [0] * (len(parts) - 1) + [width]
    edges = [0, *(round(edge * width / total) for edge in accumulate(parts))]
    cells = [right - left for left, right in pairwise(edges)]
    for n, part in enumerate(parts):
        widest = max(range(len(cells)), key=lambda i: cells[i])
        if part > 0 and cells[n] == 0 and cells[widest] > 1:
            cells[n], cells[widest] = 1, cells[widest] - 1
    return cells


def styles(bars: Sequence[Bar]) -> dict[str, tuple[str, str]]:
    """Label -> (fill character, style): the same service looks the same in every bar."""
    labels = dict.fromkeys(segment.label for bar in bars for segment in bar.segments)
    return {label: (FILLS[n % len(FILLS)], f"black on {COLOURS[n % len(COLOURS)]}") for n, label in enumerate(labels)}


def pieces(
    bar: Bar, looks: dict[str, tuple[str, str]], *, total_mb: int, reserve_mb: int, span_mb: int, width: int
) -> list[Piece]:
    """The parts of a bar of `width` cells for `span_mb`: services, foreign, free, reserve, what is beyond the card."""
    used = sum(segment.mb for segment in bar.segments) + bar.foreign_mb
    reserve = max(0, min(reserve_mb, total_mb - used))
    free = max(0, total_mb - used - reserve)
    parts = [Piece(s.label, s.mb, 0, looks[s.label][0], _style(s, looks), asleep=s.asleep) for s in bar.segments]
    parts.append(Piece("not ours", bar.foreign_mb, 0, FOREIGN_FILL, "white on red"))
    parts.append(Piece("free", free, 0, FREE_FILL, "dim"))
    parts.append(Piece("reserve", reserve, 0, RESERVE_FILL, "black on white"))
    parts.append(Piece("", max(0, span_mb - max(total_mb, used)), 0, " ", ""))
    cells = apportion([part.mb for part in parts], width)
    return [replace(part, cells=n) for part, n in zip(parts, cells, strict=True)]


def _style(segment: Segment, looks: dict[str, tuple[str, str]]) -> str:
    return f"{looks[segment.label][1]} dim" if segment.asleep else looks[segment.label][1]


def inside(piece: Piece, *, plain: bool) -> str:
    """The text of a piece: its label in the middle if it fits, else its fill. Always `piece.cells` cells wide.

    A fill character stays at both ends where there is no colour, so that neighbours can be told apart.
    """
    background = piece.fill if plain else _background(piece)
    label, room = safe(piece.label), piece.cells - 2
    if cell_len(label) > room:
        label = set_cell_size(label, room).rstrip() if room >= 5 else ""
    text = f" {label} " if label and cell_len(label) <= room - 2 else label
    missing = piece.cells - cell_len(text)
    return background * (missing // 2) + text + background * (missing - missing // 2)


def _background(piece: Piece) -> str:
    """In colour, what is nobody's keeps its pattern: it must not look like a service."""
    return piece.fill if piece.label in ("free", "reserve", "") else " "


def ruler(span_mb: int, width: int) -> tuple[str, str]:
    """Labels in GB (1024 MB) and the line of ticks under them, each `width` cells wide."""
    step = next(step for step in (1 << n for n in range(40)) if step * 1024 * width >= 6 * span_mb)
    labels, ticks = [" "] * width, ["-"] * width
    gb = 0
    # A card of "24 GB" has a little less: its last tick may stand on the last cell.
    while gb * 1024 <= span_mb * 1.01:
        at = min(width - 1, round(gb * 1024 * width / span_mb))
        ticks[at] = "+"
        text = f"{gb}"
        start = min(at, width - len(text))
        if start == 0 or labels[start - 1] == " ":
            labels[start : start + len(text)] = text
        gb += step
    return "".join(labels), "".join(ticks)


def marks(places: Sequence[tuple[int, str]], span_mb: int, width: int) -> list[str]:
    """A line per place (MiB, label): `^` under its edge, the label beside it, inside `width` cells."""
    lines = []
    for mb, label in places:
        at = max(0, min(width - 1, round(mb * width / span_mb) - 1))
        if at + 2 + len(label) <= width:
            text = " " * at + "^ " + label
        else:
            text = set_cell_size(label, max(0, min(len(label), at - 1))).rjust(max(0, at - 1)) + " ^" if at > 1 else "^"
        lines.append(text[:width].ljust(width))
    return lines


@dataclass(frozen=True)
class BarChart:
    """The bars of one GPU under each other, with a ruler, marks and a legend. `peak_mb` counts what is not ours too."""

    title: str
    bars: tuple[Bar, ...]
    total_mb: int
    reserve_mb: int = 0
    peak_mb: int | None = None
    note: str = ""

    def span_mb(self) -> int:
        """What the whole width stands for: the card, or more where a bar goes beyond it."""
        used = [sum(s.mb for s in bar.segments) + bar.foreign_mb for bar in self.bars]
        return max(1, self.total_mb, self.peak_mb or 0, *used)

    def lines(self, width: int, *, plain: bool) -> list[Text]:
        """The chart as lines, none wider than `width`."""
        room, span, looks = width - GUTTER - 1, self.span_mb(), styles(self.bars)
        lines = [Text(text, style="bold") for text in _wrapped(self.title, width)]
        drawn = [
            pieces(bar, looks, total_mb=self.total_mb, reserve_mb=self.reserve_mb, span_mb=span, width=max(0, room))
            for bar in self.bars
        ]
        if width < MIN_WIDTH:
            return lines + self._numbers(drawn, width)
        labels, ticks = ruler(span, room)
        lines.append(Text("GB".ljust(GUTTER) + labels, style="dim"))
        lines.append(Text(" " * GUTTER + ticks, style="dim"))
        for bar, parts in zip(self.bars, drawn, strict=True):
            text = Text(bar.label[: GUTTER - 1].ljust(GUTTER))
            for piece in parts:
                text.append(inside(piece, plain=plain), style="" if plain else piece.style)
            lines.append(text)
        lines += [Text(" " * GUTTER + text, style="dim") for text in self._marks(span, room)]
        lines += list(_legend([piece for parts in drawn for piece in parts], width, plain=plain))
        if self.note:
            lines += [Text(text, style="bold red") for text in _wrapped(self.note, width)]
        return lines

    def _numbers(self, drawn: Sequence[Sequence[Piece]], width: int) -> list[Text]:
        """What the bars would show, in words."""
        told = [
            f"{bar.label}: {', '.join(f'{_name(piece)} {piece.mb}' for piece in parts if piece.mb and piece.label)}"
            for bar, parts in zip(self.bars, drawn, strict=True)
        ]
        told += [f"peak {self.peak_mb} MiB"] if self.peak_mb else []
        return [Text(text) for line in (*told, self.note) for text in _wrapped(line, width)]

    def _marks(self, span: int, room: int) -> list[str]:
        places = [(self.peak_mb, f"peak {self.peak_mb} MiB")] if self.peak_mb else []
        if self.total_mb < span:
            places.append((self.total_mb, f"end of the card {self.total_mb} MiB"))
        return [line.rstrip() for line in marks(places, span, room)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.no_color or not console.is_terminal or console.color_system is None
        yield from self.lines(min(options.max_width, 160), plain=plain)


def _legend(drawn: Sequence[Piece], width: int, *, plain: bool) -> Iterator[Text]:
    """Each label once, with its size in each bar, as many on a line as fit."""
    entries: dict[tuple[str, bool], Text] = {}
    for piece in drawn:
        if not piece.mb or not piece.label:
            continue
        key = (piece.label, piece.asleep)
        if key not in entries:
            entry = Text().append(piece.fill if plain else _background(piece) * 2, style="" if plain else piece.style)
            entries[key] = entry.append(f" {_name(piece)} {piece.mb}")
        elif not entries[key].plain.endswith(f" {piece.mb}"):
            entries[key].append(f" > {piece.mb}")
    yield from _folded(list(entries.values()), width)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` as lines of at most `width` cells; a letter may take two."""
    return [part for line in wrap(safe(text), width) for part in chop_cells(line, width)]


def _name(piece: Piece) -> str:
    return f"{safe(piece.label)}{' asleep' if piece.asleep else ''}"


def _folded(entries: Sequence[Text], width: int) -> list[Text]:
    """Entries joined by blanks into lines of at most `width` cells; one that is longer is cut."""
    lines: list[Text] = []
    for entry in entries:
        entry.truncate(width, overflow="ellipsis")
        if lines and lines[-1].cell_len + 3 + entry.cell_len <= width:
            lines[-1].append("   ").append_text(entry)
        else:
            lines.append(entry)
    return lines
