"""What a change did, and what is open."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.history import run_view
from gpumod.cli.views.parts import blocks, bullets, expected, line, seconds, stack, state, table, words
from gpumod.cli.views.plan import plan
from gpumod.operations.results import ChangeResult, RecoverResult, StepResult


def change(result: ChangeResult) -> RenderableType:
    """A dry run and a misfit show their plan; anything else what was done, step by step."""
    if result.plan is not None and (result.dry_run or (result.status == "refused" and not result.plan.fits)):
        last = words("a dry run: nothing was changed", "dim") if result.dry_run else None
        return blocks(plan(result.plan), last, bullets(result.notes) if result.notes else None)
    return blocks(
        stack(_summary(result), words(f"run {result.run_id}", "dim") if result.run_id else None),
        _steps(result.steps) if result.steps else None,
        bullets(result.notes) if result.notes else None,
    )


def _summary(result: ChangeResult) -> RenderableType:
    reached = result.status in ("done", "nothing-to-do")
    where = f" ({'mode' if reached else 'wanted: mode'} {result.mode})" if result.mode else ""
    back = ": what was there before is back" if result.status == "rolled-back" else ""
    open_run = ": `gpumod recover` closes it" if result.status == "half-way" else ""
    return line(state(result.status), where, back, open_run)


def _steps(steps: tuple[StepResult, ...]) -> RenderableType:
    back = any(step.phase != "apply" for step in steps)
    return table(
        ("N", "WAY", "STEP", "SERVICE", "STATUS", "TOOK", "EXPECTED", "NOTE"),
        [
            (
                step.n,
                {"apply": "there"}.get(step.phase, "back") if back else "",
                step.action,
                step.service,
                state(step.status),
                seconds(step.seconds),
                expected(step.expected_s, measured=step.expected_measured),
                step.error.message if step.error else step.detail,
            )
            for step in steps
        ],
        right=("N",),
        fold=("NOTE",),
    )


def recovery(result: RecoverResult) -> RenderableType:
    """What is open and both ways to close it, or what closing it did."""
    told = result.change.notes if result.change is not None else ()
    more = [note for note in result.notes if note not in told]
    notes = bullets(more) if more else None
    if result.change is not None:
        return blocks(change(result.change), notes)
    busy = words(f"changing now: {result.busy}", "yellow") if result.busy else None
    if result.open_run is None:
        nothing = "nothing was left half-way: that is still at work" if busy else "nothing is open"
        return blocks(stack(busy, words(nothing)), notes)
    run = result.open_run
    there = run.target.mode or "where it was going"
    back = run.mode_before or "what was there before"
    return blocks(
        busy,
        words("A run was left half-way:", "bold"),
        run_view(run),
        stack(
            line("gpumod recover --resume     goes on to ", words(there, "bold")),
            line("gpumod recover --rollback   goes back to ", words(back, "bold")),
        ),
        notes,
    )
