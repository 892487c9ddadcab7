"""history show --follow: a run as it goes on, whoever is at work on it."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from gpumod.domain.errors import ErrorInfo, HalfWay, RolledBack
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import Run, RunStatus, RunStep, StepStatus
from gpumod.domain.states import Action
from gpumod.engine.context import Report
from gpumod.engine.loading import TELL_EVERY_S, Sight
from gpumod.engine.machine import Machine
from gpumod.engine.open_runs import left_half_way, run_left

LOOK_S = 0.2
"""How often the journal is looked at."""


async def followed(machine: Machine, run: Run, report: Report) -> Run:
    """Tell how `run` goes on until it has ended, from its journal. It ends too where nobody is at work any more."""
    teller = Teller(report)
    signs = Signs(machine, report)
    while True:
        teller.tell(run, machine.clock.now())
        if run.status is not RunStatus.RUNNING:
            return run
        await signs.tell(run)
        left, _ = await asyncio.to_thread(left_half_way, machine)
        if left is not None and left.id == run.id:
            return run
        await machine.clock.sleep(LOOK_S)
        run = machine.store.run(run.id)


def ended_with(run: Run) -> tuple[int, ErrorInfo | None]:
    """The exit status and the error of whoever did `run`, which is over."""
    if run.status is RunStatus.RUNNING:
        return HalfWay.exit_code, run_left(run).info
    if run.status is RunStatus.ROLLED_BACK and run.error:  # without an error the way back was asked for
        return RolledBack.exit_code, run.error
    return (HalfWay.exit_code if run.status is RunStatus.HALF_WAY else 0), run.error


class Signs:
    """Tells now and then how the starts of a run get on, as the services themselves show it."""

    def __init__(self, machine: Machine, report: Report) -> None:
        self._machine = machine
        self._report = report
        self._sights: dict[int, Sight] = {}
        self._told_s = -math.inf

    async def tell(self, run: Run) -> None:
        now_s = self._machine.clock.monotonic()
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        for record in run.steps:
            if record.status is not StepStatus.RUNNING or record.step.action is not Action.START:
                continue
            sight = self._sights.setdefault(record.n, Sight(self._machine, record.step.service))
            with suppress(Exception):  # what cannot be looked at shows nothing
                _, text = await sight.look()
                if text:
                    self._report(_step(run, record, self._machine.clock.now(), ProgressKind.WAITING, text))


class Teller:
    """Makes of a journal, read again and again, the news that whoever did the run would have told."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._told: dict[int, RunStep] = {}
        self._begun: set[str] = set()

    def tell(self, run: Run, now: float) -> None:
        """What is new in `run`. `now` in seconds since the epoch: a step that began before has taken its time."""
        for record in sorted(run.steps, key=lambda step: step.n):
            if record.phase not in self._begun:
                self._begin(run, record)
            if record != self._told.get(record.n) and record.status is not StepStatus.PENDING:
                self._report(_step(run, record, now))
            self._told[record.n] = record

    def _begin(self, run: Run, record: RunStep) -> None:
        """The way there or the way back begins with `record`."""
        self._begun.add(record.phase)
        steps = tuple(step.step for step in run.steps if step.phase == record.phase)
        failed = (step.error.message for step in run.steps if step.error and step.phase == "apply")
        back = record.phase == "rollback"
        self._report(
            Progress(
                kind=ProgressKind.ROLLBACK if back else ProgressKind.PLANNED,
                run_id=run.id,
                plan=run.plan.model_copy(update={"steps": steps}),
                text=next(failed, "asked for") if back else "",
            )
        )


def _step(run: Run, record: RunStep, now: float, kind: ProgressKind = ProgressKind.STEP, text: str = "") -> Progress:
    began = record.started_at if record.status is StepStatus.RUNNING else None
    return Progress(
        kind=kind,
        run_id=run.id,
        step=record.step,
        step_status=record.status,
        seconds=record.seconds if began is None else max(0.0, now - began),
        text=text or (record.error.message if record.error else record.detail),
    )
