"""Modes."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.parts import blocks, bullets, commas, line, pairs, seconds, stack, table, words
from gpumod.domain.mode import ModeMember
from gpumod.operations.results import DeletedResult, ModeListResult, ModeResult, ModeStatusResult


def mode_list(result: ModeListResult) -> RenderableType:
    """Every mode; the current one is marked."""
    if not result.modes:
        return words("no modes are defined: see `gpumod preset load` and `gpumod mode create`")
    rows = [
        (
            words("*" if m.current else " ", "green"),
            m.id,
            commas(m.services) or "nothing",
            m.declared_mb,
            m.description or m.name,
        )
        for m in result.modes
    ]
    return table(
        (" ", "MODE", "SERVICES", "DECLARED MB", "DESCRIPTION"),
        rows,
        right=("DECLARED MB",),
        fold=("SERVICES", "DESCRIPTION"),
    )


def mode(result: ModeResult) -> RenderableType:
    """One mode and its members."""
    shown = result.mode
    ordered = any(member.start_order for member in shown.members)
    rows = [(m.service, m.want, m.start_order if ordered else "", _time_out(m)) for m in shown.members]
    columns = ("SERVICE", "WANTED", "START ORDER", "IDLE TIME-OUT")
    return blocks(
        pairs({"mode": words(shown.id, "bold"), "name": shown.name, "description": shown.description}),
        table(columns, rows, right=columns[2:]) if rows else words("no services"),
    )


def _time_out(member: ModeMember) -> str:
    """What the mode itself says of a member's idle time-out."""
    return "never" if member.idle_timeout == 0 else seconds(member.idle_timeout)


def mode_status(result: ModeStatusResult) -> RenderableType:
    """Each member: wanted and real."""
    rows = [
        (words("ok", "green") if m.ok else words("no", "red"), m.service, m.wanted, m.state, m.detail)
        for m in result.members
    ]
    whole = words("whole", "green") if result.whole else words("not whole", "red")
    return blocks(
        line("mode ", words(result.mode, "bold"), " (current): " if result.current else ": ", whole),
        stack(
            table(("OK", "SERVICE", "WANTED", "STATE", "NOTE"), rows, fold=("NOTE",)) if rows else words("no services"),
            words(f"also up: {commas(result.extra)}", "yellow") if result.extra else None,
        ),
        bullets(result.notes) if result.notes else None,
    )


def deleted(result: DeletedResult) -> RenderableType:
    """What is gone."""
    return stack(words(f"{result.kind} {result.id} deleted"), bullets(result.notes, "yellow") if result.notes else None)
