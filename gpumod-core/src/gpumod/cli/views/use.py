"""Turns with services, and what sleeps because nobody uses it."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.change import change
from gpumod.cli.views.parts import blocks, bullets, seconds, table, words
from gpumod.operations.use_results import IdleRow, SleepIdleResult, TurnResult


def turned(result: TurnResult) -> RenderableType:
    """What was done for a turn, who has it, and what was done after it."""
    turn = result.turn
    return blocks(
        change(result.change) if result.change else None,
        words(f"{turn.holder} has a turn with {turn.service}", "green") if turn else None,
        change(result.back) if result.back else None,
        bullets(words(note) for note in result.notes) if result.notes else None,
    )


def idling(result: SleepIdleResult) -> RenderableType:
    """Every service that has a time-out, and what was done."""
    if not result.services:
        return words("nothing that runs has an idle time-out")
    rows = [
        (row.service, seconds(row.timeout_s), _idle(row), row.in_flight, row.why or "it is time to")
        for row in result.services
    ]
    columns = ("SERVICE", "MAY IDLE", "IDLES", "REQUESTS", "SLEEPS")
    return blocks(
        table(columns, rows, right=("MAY IDLE", "IDLES", "REQUESTS"), fold=("SLEEPS",)),
        change(result.change) if result.change else None,
        bullets(words(note) for note in result.notes) if result.notes else None,
    )


def _idle(row: IdleRow) -> str:
    return "?" if row.idle_s is None else seconds(row.idle_s)
