"""Recover: close a run that was left half-way, by going on or by going back. Both are plans from what is there now."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gpumod.domain.errors import ErrorInfo, GpumodError, HalfWay
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import Run, RunStatus, StepStatus
from gpumod.domain.states import Action
from gpumod.engine.change import left_open, misfit
from gpumod.engine.conclude import conclude
from gpumod.engine.context import Report, muted
from gpumod.engine.execute import INTERRUPTED
from gpumod.engine.interrupts import Interrupts, listening
from gpumod.engine.leftovers import sweep
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe_twice
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.engine.preflight import check_disk, launches, preflight, prepared
from gpumod.engine.runs import Outcome, finish, go_back, journalled, run_phase, tidied
from gpumod.engine.turns import passed_over, refuse_taken


async def recover(
    machine: Machine, way: Literal["resume", "rollback"], options: Options, report: Report
) -> Outcome | None:
    """Close the open run; None when there is none. A resume that fails leaves the run open, for a rollback.

    Raises Busy `leased` where going on, unforced, would take away what somebody has a turn with by now.
    """
    report = muted(report)
    check_disk(machine)
    command = f"recover --{way}"
    with machine.local.lock(machine.probe.machine_dir(), command, machine.home), listening() as interrupts:
        run = machine.store.open_run()
        if run is None:
            return None
        outcome = await _closed(machine, run, way, options, report, interrupts)
        await sweep(machine)
        return outcome


async def _closed(
    machine: Machine,
    run: Run,
    way: Literal["resume", "rollback"],
    options: Options,
    report: Report,
    interrupts: Interrupts,
) -> Outcome:
    """Close `run`, under the lock."""
    close_steps(machine, run)
    if way == "rollback":
        outcome = await go_back(machine, run, run.error, report, interrupts, asked_for=True)
        asked_for = outcome.status is RunStatus.ROLLED_BACK
        return replace(outcome, error=None, exit_code=0) if asked_for else outcome
    if not await interrupts.spare(conclude(machine, run)):
        return finish(machine, run, RunStatus.HALF_WAY, INTERRUPTED, HalfWay.exit_code, report)
    snapshot = await observe_twice(machine)
    target = run.target.model_copy(update={"restart": still_to_restart(machine, run)})
    wanted = tidied(machine, run, snapshot, Wanted(target, {**machine.store.services(), **run.wanted}))
    planned = plan_for(machine, snapshot, wanted, options)
    if not options.force:
        refuse_taken(planned.taken)
    if not planned.plan.fits and not options.force:
        return Outcome(RunStatus.REFUSED, planned.plan, run=run, error=misfit(planned.plan), exit_code=3)
    starts = await interrupts.look(launches(machine, planned))
    async with prepared(machine, starts):
        await preflight(machine, planned, starts)
        report(Progress(kind=ProgressKind.PLANNED, run_id=run.id, plan=planned.plan))
        offset = journalled(machine, run)
        try:
            error = await run_phase(machine, run, planned, "apply", options, report, interrupts, offset)
            status, code = (RunStatus.HALF_WAY, HalfWay.exit_code) if error else (RunStatus.DONE, 0)
            return replace(finish(machine, run, status, error, code, report), notes=passed_over(planned.taken))
        except GpumodError as failure:
            raise left_open(run, failure) from failure


def close_steps(machine: Machine, run: Run) -> None:
    """Journal that the steps under way when gpumod ended were cut off, and that the later ones never began."""
    cut_off = ErrorInfo(code="cut-off", message="gpumod ended while this step was under way")
    for record in run.steps:
        if record.status is StepStatus.RUNNING:
            machine.store.update_step(run.id, record.model_copy(update={"status": StepStatus.FAILED, "error": cut_off}))
        elif record.status is StepStatus.PENDING:
            machine.store.update_step(run.id, record.model_copy(update={"status": StepStatus.SKIPPED}))


def still_to_restart(machine: Machine, run: Run) -> tuple[str, ...]:
    """The restarts of `run` that did not come about yet: those whose start is not journalled as done."""
    started = {s.step.service for s in run.steps if s.step.action is Action.START and s.status is StepStatus.DONE}
    handles = machine.store.handles()
    done = {s for s in started if s in handles and handles[s].launched == run.wanted.get(s)}
    return tuple(service for service in run.target.restart if service not in done)
