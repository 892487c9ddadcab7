"""A change: lock, observe, plan under the lock, execute, verify, record; on failure, go back by a plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gpumod.domain.errors import ErrorInfo, GpumodError, HalfWay
from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Plan
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import Run, RunStatus
from gpumod.domain.states import Action
from gpumod.engine.context import Report, muted
from gpumod.engine.debts import settle
from gpumod.engine.device import unusable
from gpumod.engine.interrupts import Interrupts, listening
from gpumod.engine.leases import put_lease
from gpumod.engine.leftovers import is_moving, sweep
from gpumod.engine.machine import Machine
from gpumod.engine.memory import wait_settled
from gpumod.engine.observe import observe_twice
from gpumod.engine.open_runs import begin, refuse_open_run
from gpumod.engine.planning import Options, Planned, Wanted, plan_for
from gpumod.engine.preflight import check_disk, launches, preflight, prepared
from gpumod.engine.runs import Outcome, finish, go_back, new_run, run_phase
from gpumod.engine.turns import refuse_taken

Build = Callable[[HostSnapshot], Wanted]
Confirm = Callable[[], Awaitable[None]]


async def change(
    machine: Machine, command: str, build: Build, options: Options, report: Report, confirm: Confirm | None = None
) -> Outcome:
    """Do one change, whole. `build` says what is wanted, given what is observed under the lock. `confirm` is asked last
    of all, before the first step; what it raises ends the change, with nothing done.

    Raises Busy at once when somebody else changes this machine (`machine-busy`), or uses what the plan takes away
    (`leased`, unless it is forced), HalfWay when a run is open, and whatever planning or the preflight refuses; a run
    that began always ends in an Outcome. Cancelled, it goes back first, as at a signal.
    """
    report = muted(report)
    check_disk(machine)
    with machine.local.lock(machine.probe.machine_dir(), command, machine.home), listening() as interrupts:
        refuse_open_run(machine)
        leaves_units = is_moving(machine)
        planned = _planned(machine, command, build, options, report, interrupts, confirm)
        outcome = await interrupts.see_through(planned)
        if leaves_units:
            await sweep(machine)
        return outcome


async def _planned(
    machine: Machine,
    command: str,
    build: Build,
    options: Options,
    report: Report,
    interrupts: Interrupts,
    confirm: Confirm | None,
) -> Outcome:
    """Observe and plan, refuse what cannot be, and do it. Called under the lock."""
    snapshot = await interrupts.look(observe_twice(machine))
    planned = plan_for(machine, snapshot, build(snapshot), options)
    if not planned.plan.fits and any(snapshot.unattributed_mb(gpu.index) for gpu in snapshot.gpus):
        # something may just have died: its memory is as good as free
        await interrupts.look(wait_settled(machine))
        snapshot = await interrupts.look(observe_twice(machine))
        planned = plan_for(machine, snapshot, build(snapshot), options)
    plan = planned.plan
    if not options.force:
        refuse_taken(planned.taken)
    refuse_lost(plan, snapshot)
    if not plan.fits and not options.force:
        return Outcome(RunStatus.REFUSED, plan, error=misfit(plan), exit_code=3)
    starts = await interrupts.look(launches(machine, planned))
    async with prepared(machine, starts):
        await preflight(machine, planned, starts)
        if confirm is not None:
            await confirm()
        return await _do(machine, new_run(machine, command, planned), planned, options, report, interrupts)


async def _do(
    machine: Machine, run: Run, planned: Planned, options: Options, report: Report, interrupts: Interrupts
) -> Outcome:
    """Run what was planned and can be done, to its end."""
    if not planned.plan.steps:
        return nothing_to_do(machine, run, planned.holding)
    await machine.clock.sleep(0.001)  # a signal that came while all this was reckoned is heard only now
    if interrupts.event.is_set():
        raise interrupts.before_the_first_step()
    begin(machine, run, planned.holding)
    report(Progress(kind=ProgressKind.PLANNED, run_id=run.id, plan=planned.plan))
    try:
        error = await run_phase(machine, run, planned, "apply", options, report, interrupts)
        if error is None:
            return finish(machine, run, RunStatus.DONE, None, 0, report)
        if not options.rollback or interrupts.leave:
            return finish(machine, run, RunStatus.HALF_WAY, error, HalfWay.exit_code, report)
        interrupts.going_back()
        return await go_back(machine, run, error, report, interrupts, planned.turn)
    except GpumodError as failure:
        raise left_open(run, failure) from failure


def refuse_lost(plan: Plan, snapshot: HostSnapshot) -> None:
    """Refuse, before anything is touched, a plan that needs a card that cannot be used, or that only it could hold.

    What only stops is let through. Raises MachineLacks `gpu-lost` and the like.
    """
    bad = {gpu.index: gpu.fault for gpu in snapshot.gpus if gpu.fault is not None}
    needed = {gpu for step in plan.steps if step.action in (Action.START, Action.WAKE) for gpu in step.placed_on}
    for index, fault in bad.items():
        if index in needed or not plan.fits:
            raise unusable(fault)


def left_open(run: Run, failure: GpumodError) -> HalfWay:
    """The error of a run whose end could not even be journalled."""
    return HalfWay(
        "journal-failed",
        f"run {run.id} was left half-way: its journal could not be written",
        why=f"{failure.info.message}; {failure.info.why}".rstrip("; "),
        hint=f"{failure.info.hint}; then gpumod recover".lstrip("; "),
        run_id=run.id,
    )


def nothing_to_do(machine: Machine, run: Run, holding: Holding | None) -> Outcome:
    """Nothing moves; the recorded mode, or its alternative, may still change, and room that is there be leased."""
    mode, store = run.target.mode, machine.store
    if mode is None or (mode, run.target.alternative) == (store.current_mode(), store.current_alternative()):
        if holding is not None:
            put_lease(machine, holding)
        settle(machine, run)
        return Outcome(RunStatus.NOTHING_TO_DO, run.plan)
    ended = run.model_copy(update={"status": RunStatus.NOTHING_TO_DO, "ended_at": machine.clock.now()})
    with store.together():
        begin(machine, ended, holding)
        settle(machine, run)
        store.finish_run(ended, mode=mode, set_mode=True)
    return Outcome(RunStatus.NOTHING_TO_DO, run.plan, run=ended)


def misfit(plan: Plan) -> ErrorInfo:
    """Why a plan was refused, as an error."""
    takes = plan.alternatives and plan.target.mode
    hint = "take an alternative with --with ID" if takes else "stop something, or leave a service out"
    return ErrorInfo(
        code="does-not-fit",
        message=plan.why,
        why=", ".join(f"GPU {g.index}: {g.peak_mb} of {g.budget_mb} MiB" for g in plan.gpus if g.exceeds_by_mb),
        hint=hint + "; --force overrides",
        details={"exceeds_by_mb": plan.exceeds_by_mb, "alternatives": [a.id for a in plan.alternatives]},
    )
