"""VRAM bars: to scale, complete, inside their width, in colour and plain."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from gpumod.cli.views.bars import Bar, BarChart, Piece, Segment, apportion, inside, marks, pieces, ruler, styles

PARTS = st.lists(st.integers(0, 200_000), min_size=1, max_size=20)
LABELS = st.text(st.characters(codec="utf-8"), max_size=30)
SEGMENTS = st.lists(st.builds(Segment, label=LABELS, mb=st.integers(0, 30_000), asleep=st.booleans()), max_size=12)
BARS = st.builds(
    Bar, label=st.sampled_from(["now", "then"]), segments=SEGMENTS.map(tuple), foreign_mb=st.integers(0, 9000)
)
CHARTS = st.builds(
    BarChart,
    title=LABELS,
    bars=st.lists(BARS, min_size=1, max_size=2).map(tuple),
    total_mb=st.integers(1, 200_000),
    reserve_mb=st.integers(0, 2000),
    peak_mb=st.none() | st.integers(0, 250_000),
    note=LABELS,
)


@given(PARTS, st.integers(1, 300))
def test_cells_sum_to_the_width(parts: list[int], width: int) -> None:
    cells = apportion(parts, width)
    assert sum(cells) == width
    assert min(cells) >= 0


@given(PARTS, st.integers(1, 300))
def test_no_part_vanishes_where_there_is_room(parts: list[int], width: int) -> None:
    cells = apportion(parts, width)
    if width >= sum(part > 0 for part in parts):
        assert all(n > 0 for n, part in zip(cells, parts, strict=True) if part > 0)


@given(PARTS, st.integers(20, 300))
def test_cells_follow_the_scale(parts: list[int], width: int) -> None:
    total = sum(parts)
    thin = sum(0 < part * width < total for part in parts)
    for n, part in zip(apportion(parts, width), parts, strict=True):
        if total:
            assert abs(n - part * width / total) <= 1 + thin


@given(LABELS, st.integers(0, 60), st.booleans())
def test_a_label_never_overflows(label: str, cells: int, plain: bool) -> None:
    assert cell_len(inside(Piece(label, 1, cells, "#", ""), plain=plain)) == cells


@given(BARS, st.integers(1, 100_000), st.integers(0, 2000), st.integers(10, 200))
def test_a_bar_shows_everything_in_its_width(bar: Bar, total_mb: int, reserve_mb: int, width: int) -> None:
    used = sum(s.mb for s in bar.segments) + bar.foreign_mb
    span = max(total_mb, used)
    drawn = pieces(bar, styles([bar]), total_mb=total_mb, reserve_mb=reserve_mb, span_mb=span, width=width)
    assert sum(piece.cells for piece in drawn) == width
    assert sum(piece.mb for piece in drawn) == span
    assert [(p.label, p.mb) for p in drawn][: len(bar.segments)] == [(s.label, s.mb) for s in bar.segments]


@given(CHARTS, st.integers(2, 160), st.booleans())
def test_no_line_is_wider_than_asked(chart: BarChart, width: int, plain: bool) -> None:
    for line in chart.lines(width, plain=plain):
        assert line.cell_len <= width
        assert "\n" not in line.plain


@given(CHARTS)
def test_the_legend_names_every_service(chart: BarChart) -> None:
    wide = "".join(line.plain for line in chart.lines(4000, plain=True))
    for bar in chart.bars:
        for segment in bar.segments:
            if segment.mb and segment.label.strip().isascii() and segment.label.isalnum():
                assert f" {segment.label}" in wide


def test_where_there_is_no_room_to_draw_the_numbers_are_told() -> None:
    bar = Bar("now", (Segment("chat", 7000), Segment("tts", 300, asleep=True)), foreign_mb=1200)
    chart = BarChart("GPU 0 card", (bar,), total_mb=24_000, reserve_mb=512, peak_mb=9000, note="too much")
    told = " ".join(line.plain for line in chart.lines(20, plain=True))
    words = "now: chat 7000, tts asleep 300, not ours 1200, free 14988, reserve 512"
    assert told == f"GPU 0 card {words} peak 9000 MiB too much"


@given(st.integers(1, 2_000_000), st.integers(30, 200))
def test_the_ruler_is_to_scale(span_mb: int, width: int) -> None:
    labels, ticks = ruler(span_mb, width)
    assert len(labels) == len(ticks) == width
    for n, tick in enumerate(ticks[:-1]):
        number = labels[n:].split(" ")[0]
        if tick == "+" and number.isdigit() and (n == 0 or labels[n - 1] == " "):
            assert abs(n - int(number) * 1024 * width / span_mb) <= 1


@given(st.integers(0, 100_000), st.integers(1, 100_000), st.integers(20, 200))
def test_a_mark_stands_under_its_place(mb: int, span_mb: int, width: int) -> None:
    (line,) = marks([(min(mb, span_mb), "peak 1 MB")], span_mb, width)
    assert len(line) == width
    assert abs(line.index("^") + 1 - min(mb, span_mb) * width / span_mb) <= 1


def test_neighbours_look_different_without_colour() -> None:
    bar = Bar("now", tuple(Segment(f"service-{n}", 2000) for n in range(8)), foreign_mb=500)
    drawn = pieces(bar, styles([bar]), total_mb=24564, reserve_mb=512, span_mb=24564, width=70)
    fills = [piece.fill for piece in drawn if piece.cells]
    assert len(set(fills)) == len(fills)


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    chart = BarChart("GPU 0", (Bar("now", (Segment("chat", 7000),)),), total_mb=24564)

    def drawn(*, colours: bool, terminal: bool) -> str:
        console = Console(file=StringIO(), width=80, force_terminal=terminal, no_color=not colours)
        console.print(chart)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    coloured, plain = drawn(colours=True, terminal=True), drawn(colours=False, terminal=True)
    piped = drawn(colours=True, terminal=False)
    assert "\x1b[" in coloured
    assert "####" not in coloured
    assert "####" in plain
    assert "####" in piped
    assert "\x1b" not in piped
