"""Execute the steps of a plan: side by side where the plan allows it, each journalled before and after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gpumod.domain.errors import ErrorInfo, GpumodError
from gpumod.domain.plan import Step
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import RunStep, StepStatus
from gpumod.domain.states import Action
from gpumod.engine.actions import perform
from gpumod.engine.context import RunContext
from gpumod.engine.fetching import fetch
from gpumod.engine.memory import admit
from gpumod.ports import HttpFailure

log = logging.getLogger(__name__)

Phase = Literal["apply", "rollback"]
Task = asyncio.Task[ErrorInfo | None]
INTERRUPTED = ErrorInfo(code="interrupted", message="interrupted", hint="run it again when it suits")


async def execute(ctx: RunContext, phase: Phase) -> ErrorInfo | None:
    """Fetch what its starts need, and run every step of `ctx.plan`; None when all are done, else the first error.

    After an error or an interrupt no step begins; starts and wakes under way are given up, stops and sleeps are
    waited for, until a second interrupt. What was not begun is journalled as skipped.
    """
    ctx.pending.clear()
    ctx.pending.update({step.n: step for step in ctx.plan.steps})
    signals = [asyncio.create_task(ctx.interrupt.wait()), asyncio.create_task(ctx.leave.wait())]
    tasks: dict[Task, Step] = {}
    try:
        error = await _run_all(ctx, phase, tasks, signals)
    finally:
        left: list[asyncio.Task[Any]] = [*signals, *tasks]
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    for step in ctx.pending.values():
        skipped = RunStep(n=ctx.offset + step.n, phase=phase, step=step, status=StepStatus.SKIPPED)
        ctx.machine.store.update_step(ctx.run_id, skipped)
    return error


async def _run_all(
    ctx: RunContext, phase: Phase, tasks: dict[Task, Step], signals: Sequence[asyncio.Task[Any]]
) -> ErrorInfo | None:
    done: set[int] = set()
    error = await fetch(ctx) or (INTERRUPTED if ctx.interrupt.is_set() else None)
    while (ctx.pending and error is None) or tasks:
        if error is None:
            for step in _ready(ctx.pending.values(), done):
                del ctx.pending[step.n]
                tasks[asyncio.create_task(_one(ctx, step, phase))] = step
        waiting = [task for task in signals if not task.done()]
        await asyncio.wait([*tasks, *waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in tasks if task.done()]:
            done.add(tasks.pop(task).n)
            error = error or (INTERRUPTED if task.cancelled() else task.result())
        if ctx.interrupt.is_set():
            error = error or INTERRUPTED
        if error is not None:
            for task, step in tasks.items():
                waited_for = step.action in (Action.STOP, Action.SLEEP) and not ctx.leave.is_set()
                if not waited_for and not task.cancelling():  # once: what it clears up then is not disturbed
                    task.cancel()
    return error


def _ready(pending: Iterable[Step], done: set[int]) -> list[Step]:
    return [step for step in pending if done.issuperset(step.waits_for)]


async def _one(ctx: RunContext, step: Step, phase: Phase) -> ErrorInfo | None:
    """One step: journal, act until it is really so, journal."""
    clock, store = ctx.machine.clock, ctx.machine.store
    record = RunStep(n=ctx.offset + step.n, phase=phase, step=step, status=StepStatus.RUNNING, started_at=clock.now())
    began = clock.monotonic()
    error: ErrorInfo | None = None
    remark = ""
    try:
        store.update_step(ctx.run_id, record)
        _tell(ctx, record)
        if step.action in (Action.START, Action.WAKE):
            await admit(ctx, step)
        ctx.running[step.n] = step
        remark = await perform(ctx, step)
    except GpumodError as failure:
        error = failure.info
    except HttpFailure as failure:
        error = ErrorInfo(
            code="not-answering",
            message=f"{step.service} did not answer when it was to {step.action}",
            why=str(failure),
        )
    except asyncio.CancelledError:
        error = INTERRUPTED
    except Exception as failure:  # whatever breaks a step must turn the run back, never leave it open
        log.exception("step %s %s broke", step.action, step.service)
        error = ErrorInfo(
            code="internal",
            message=f"{step.action} {step.service} broke: {type(failure).__name__}: {failure}",
            hint="this is a bug in gpumod or a plugin; run it with --debug",
        )
    finally:
        ctx.running.pop(step.n, None)
    status = StepStatus.FAILED if error else StepStatus.DONE
    seconds = clock.monotonic() - began
    record = record.model_copy(update={"status": status, "seconds": seconds, "error": error, "detail": remark})
    try:
        store.update_step(ctx.run_id, record)
    except GpumodError as failure:  # a journal that cannot be written (a full disk) turns the run back too
        error = error or failure.info
    _tell(ctx, record)
    return error


def _tell(ctx: RunContext, record: RunStep) -> None:
    text = record.error.message if record.error else record.detail
    ctx.report(
        Progress(
            kind=ProgressKind.STEP,
            run_id=ctx.run_id,
            step=record.step,
            step_status=record.status,
            seconds=record.seconds,
            text=text,
        )
    )
