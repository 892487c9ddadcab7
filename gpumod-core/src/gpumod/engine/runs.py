"""One run: begun with what was there, executed in phases, ended with a status; going back is a phase like any other."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gpumod.domain.errors import ErrorInfo, GpumodError, HalfWay, RolledBack
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.plan import Plan, Target, TargetMember
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import Run, RunStatus, RunStep, StepStatus
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, State
from gpumod.engine.conclude import conclude
from gpumod.engine.context import Report, RunContext
from gpumod.engine.debts import settle
from gpumod.engine.execute import INTERRUPTED, Phase, execute
from gpumod.engine.interrupts import Interrupts
from gpumod.engine.leases import drop_lease
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe_twice
from gpumod.engine.planning import Options, Planned, Wanted, altered_in, launched, plan_for
from gpumod.engine.turns import passed_over
from gpumod.planner import check_needs, target_of
from gpumod.ports.foreign import FindsContainers

log = logging.getLogger(__name__)

NOT_BEGUN = (StepStatus.PENDING, StepStatus.SKIPPED)


@dataclass(frozen=True)
class Outcome:
    """How a change ended. `run` is None where nothing was executed. `notes` say whom it passed over, and what did not
    come back where no error says so."""

    status: RunStatus
    plan: Plan
    run: Run | None = None
    error: ErrorInfo | None = None
    exit_code: int = 0
    notes: tuple[str, ...] = ()


def new_run(machine: Machine, command: str, planned: Planned) -> Run:
    """A run that is about to begin, with what is there now: states and the definitions that were launched."""
    now = machine.clock.now()
    wanted = {member.service for member in planned.plan.target.members} | {s.service for s in planned.plan.steps}
    return Run(
        id=f"{int(now * 1000):x}-{os.urandom(2).hex()}",
        command=command,
        holder=f"pid {os.getpid()}",
        boot=machine.boot(),
        status=RunStatus.RUNNING,
        target=planned.plan.target,
        plan=planned.plan,
        before=planned.snapshot.services,
        definitions=launched(planned.snapshot),
        wanted={s: planned.services[s] for s in sorted(wanted) if s in planned.services},
        mode_before=machine.store.current_mode(),
        lease=planned.holding.id if planned.holding else None,
        started_at=now,
        steps=tuple(RunStep(n=step.n, step=step) for step in planned.plan.steps),
    )


async def run_phase(
    machine: Machine,
    run: Run,
    planned: Planned,
    phase: Phase,
    options: Options,
    report: Report,
    interrupts: Interrupts,
    offset: int = 0,
) -> ErrorInfo | None:
    """Execute `planned` as a phase of `run`; its steps are journalled already where `offset` is 0."""
    ctx = RunContext(
        machine=machine,
        run_id=run.id,
        plan=planned.plan,
        services=planned.services,
        footprints=planned.footprints,
        snapshot=planned.snapshot,
        report=report,
        kept=planned.kept,
        timeout_s=options.timeout_s,
        force=options.force,
        going_back=phase == "rollback",
        offset=offset,
        interrupt=interrupts.event,
        leave=interrupts.left,
    )
    if offset:
        steps = [RunStep(n=offset + step.n, phase=phase, step=step) for step in planned.plan.steps]
        machine.store.add_steps(run.id, steps)
    return await execute(ctx, phase)


async def go_back(
    machine: Machine,
    run: Run,
    error: ErrorInfo | None,
    report: Report,
    interrupts: Interrupts,
    turn: str = "",
    *,
    asked_for: bool = False,
) -> Outcome:
    """Bring back what was there before `run`: a plan like any other, from what is observed now. Nothing blocks it.

    `turn` is the id of the turn that `run` was done for. `asked_for`: who waits for it is told its end, not `error`.
    """
    back = Progress(kind=ProgressKind.ROLLBACK, run_id=run.id, text=error.message if error else "asked for")
    report(back)
    options = Options(force=True, leases=False, cascade=True)
    failed: ErrorInfo | None
    passed: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    try:
        if not await interrupts.spare(conclude(machine, run)):
            return finish(machine, run, RunStatus.HALF_WAY, error or INTERRUPTED, HalfWay.exit_code, report)
        snapshot = await observe_twice(machine)
        wanted = tidied(machine, run, snapshot, what_was(run, snapshot, machine.store.services()))
        wanted = with_hosts(run, snapshot, wanted)
        wanted, ended = without_ended(wanted, snapshot, await without_container(machine, wanted, snapshot))
        wanted, lost = without_lost(wanted, run, snapshot)
        error = _and_ended(error, ended)
        planned = plan_for(machine, snapshot, replace(wanted, turn=turn), options)
        passed = passed_over(planned.taken)
        report(back.model_copy(update={"plan": planned.plan}))
        offset = journalled(machine, run)
        failed = await run_phase(machine, run, planned, "rollback", options, report, interrupts, offset) or lost
    except GpumodError as refusal:
        failed = refusal.info
    except Exception as bug:  # whatever breaks the way back leaves the run open, never unended
        log.exception("the way back of run %s broke", run.id)
        failed = ErrorInfo(code="internal", message=f"{type(bug).__name__}: {bug}", hint="this is a bug in gpumod")
    if failed is None:
        outcome = finish(machine, run, RunStatus.ROLLED_BACK, error, RolledBack.exit_code, report)
    else:
        outcome = finish(machine, run, RunStatus.HALF_WAY, _both(error, failed), HalfWay.exit_code, report)
    is_told = error is not None and not (asked_for and failed is None)
    return replace(outcome, notes=passed if is_told or not ended else (*passed, _left_out(ended)))


def what_was(run: Run, snapshot: HostSnapshot, defined: Mapping[str, Service]) -> Wanted:
    """The way back from `snapshot` to what was there before `run`: only what differs is touched.

    What was up comes back as it was (state, definition, GPUs). What was not up and is now goes, if `run` was to touch
    it: what had failed before is left so, and what was adopted and others have started runs on. A dependency that is
    neither defined any more nor was up cannot be asked for: it is dropped from the definitions.
    """
    known = {**defined, **run.definitions}
    services = {
        s: d.model_copy(update={"depends_on": tuple(n for n in d.depends_on if n in known)}) for s, d in known.items()
    }
    was = target_of(run.before, run.definitions)
    members, again = [], []
    for member in was.members:
        now, before = snapshot.reading(member.service), run.before[member.service]
        # of what was adopted the definition of today is told: nothing was launched from it
        other = now.launched is not None and not now.adopted and now.launched != run.definitions[member.service]
        if other or now.state != before.state:
            members.append(member)
        if other:
            again.append(member.service)
    kept = set(check_needs(services, [member.service for member in was.members]))
    touched = {record.step.service for record in run.steps}
    gone = [
        r.service
        for r in snapshot.services.values()
        if r.state is not State.STOPPED
        and r.service in touched - kept
        and run.before.get(r.service, ServiceReading(service=r.service, state=State.STOPPED)).state in GONE
    ]
    target = Target(
        members=tuple(members),
        stop_others=False,
        stop=tuple(sorted(gone)),
        restart=tuple(again),
        altered=altered_in(run.before),
    )
    return Wanted(target, services)


async def without_container(machine: Machine, wanted: Wanted, snapshot: HostSnapshot) -> set[str]:
    """Members that were adopted from containers which are not there any more, whatever has their names now.

    One whose engine cannot be asked is none of them: its own start tells what is wrong.
    """
    found = set()
    for member in wanted.target.members:
        adopted = wanted.services[member.service].adopted
        if adopted and adopted.container and snapshot.reading(member.service).state in GONE:
            with suppress(GpumodError):
                keeper = machine.supervisor(adopted.keeper)
                if isinstance(keeper, FindsContainers) and not await asyncio.to_thread(keeper.has, adopted):
                    found.add(member.service)
    return found


def without_ended(
    wanted: Wanted, snapshot: HostSnapshot, lacking: Collection[str] = ()
) -> tuple[Wanted, tuple[str, ...]]:
    """`wanted` without adopted processes that have ended, without those in `lacking`, and without what needs them;
    nobody here knows how to start those."""
    members = {member.service for member in wanted.target.members}
    gone = {s for s in members if (a := wanted.services[s].adopted) and a.pid and snapshot.reading(s).state in GONE}
    gone |= members & {*lacking}
    while more := {s for s in members - gone if set(wanted.services[s].needs) & gone}:
        gone |= more
    kept = tuple(member for member in wanted.target.members if member.service not in gone)
    again = tuple(service for service in wanted.target.restart if service not in gone)
    target = wanted.target.model_copy(update={"members": kept, "restart": again})
    return Wanted(target, wanted.services), tuple(sorted(gone))


def _and_ended(error: ErrorInfo | None, ended: tuple[str, ...]) -> ErrorInfo | None:
    if not ended or error is None:
        return error
    return error.model_copy(update={"why": f"{error.why}; {_left_out(ended)}".lstrip("; ")})


def _left_out(ended: tuple[str, ...]) -> str:
    cannot = "an adopted process that has ended, or a container that is gone, is not started again"
    return f"{', '.join(ended)} did not come back: {cannot}"


def without_lost(wanted: Wanted, run: Run, snapshot: HostSnapshot) -> tuple[Wanted, ErrorInfo | None]:
    """`wanted` without what cannot come back because its card is lost, and what needs that; with the reason, if any."""
    bad = {gpu.index: gpu.fault for gpu in snapshot.gpus if gpu.fault is not None}
    seats = {member.service: run.before[member.service].gpus for member in wanted.target.members}
    gone = {service for service, seat in seats.items() if set(seat) & set(bad)}
    while more := {s for s in seats if s not in gone and set(wanted.services[s].needs) & gone}:
        gone |= more
    if not gone:
        return wanted, None
    fault = next(bad[gpu] for service in sorted(gone) for gpu in seats[service] if gpu in bad)
    kept = tuple(member for member in wanted.target.members if member.service not in gone)
    again = tuple(service for service in wanted.target.restart if service not in gone)
    target = wanted.target.model_copy(update={"members": kept, "restart": again})
    why = f"{', '.join(sorted(gone))} cannot come back: {fault.message}"
    return Wanted(target, wanted.services), fault.model_copy(update={"message": why})


def tidied(machine: Machine, run: Run, snapshot: HostSnapshot, wanted: Wanted) -> Wanted:
    """`wanted`, with the dead of `run` stopped too: those that it started or stopped, and that nobody wants.

    Their stop clears the handles that a crash, or a start that failed, has left behind.
    """
    begun = {s.step.service for s in machine.store.run(run.id).steps if s.status not in NOT_BEGUN}
    needed = set(check_needs(wanted.services, [member.service for member in wanted.target.members]))
    dead = {r.service for r in snapshot.services.values() if r.state is State.FAILED}
    stop = (*wanted.target.stop, *sorted(begun & dead - needed - {*wanted.target.stop}))
    return Wanted(wanted.target.model_copy(update={"stop": stop}), wanted.services)


def with_hosts(run: Run, snapshot: HostSnapshot, wanted: Wanted) -> Wanted:
    """`wanted`, with hosts that run as they did before `run`: they stay, also where the last of their members goes."""
    target = wanted.target
    hosts = {found.host for service in target.stop if (found := wanted.services.get(service)) and found.host}
    hosts -= {member.service for member in target.members} | {*target.stop}
    was = {service for service, reading in run.before.items() if reading.state is State.RUNNING}
    kept = [TargetMember(service=h) for h in sorted(hosts & was) if snapshot.reading(h).state is State.RUNNING]
    return Wanted(target.model_copy(update={"members": (*target.members, *kept)}), wanted.services)


def journalled(machine: Machine, run: Run) -> int:
    """The highest step number of `run` so far."""
    return max((step.n for step in machine.store.run(run.id).steps), default=0)


def finish(
    machine: Machine, run: Run, status: RunStatus, error: ErrorInfo | None, exit_code: int, report: Report
) -> Outcome:
    """Record how `run` ended, and the mode when it was reached. The lease of one that was rolled back goes with it."""
    if status is RunStatus.HALF_WAY and error is not None:
        error = closed_by(error)
    ended = run.model_copy(update={"status": status, "error": error, "ended_at": machine.clock.now()})
    reached = status is RunStatus.DONE and run.target.mode is not None
    with machine.store.together():
        machine.store.finish_run(ended, mode=run.target.mode if reached else None, set_mode=reached)
        if status is RunStatus.DONE:
            settle(machine, run)
        if status is RunStatus.ROLLED_BACK and run.lease is not None:
            drop_lease(machine, run.lease)
    report(Progress(kind=ProgressKind.ENDED, run_id=run.id, text=status))
    return Outcome(status, run.plan, run=machine.store.run(run.id), error=error, exit_code=exit_code)


def closed_by(error: ErrorInfo) -> ErrorInfo:
    """`error` of a run that is left open, with how that is closed: nothing can be done again before."""
    if "gpumod recover" in error.hint:
        return error
    before = "" if error.code == INTERRUPTED.code or not error.hint else f"{error.hint}; then "
    hint = f"{before}gpumod recover --resume (go on) or --rollback (back to what was there)"
    return error.model_copy(update={"hint": hint})


def _both(error: ErrorInfo | None, rollback: ErrorInfo) -> ErrorInfo:
    if error is None:
        return rollback
    hint = "" if rollback.code == INTERRUPTED.code else "mend what the rollback met, then: gpumod recover --rollback"
    details = {**error.details, "rollback": rollback.model_dump()}
    why = f"{error.why}; and the way back failed: {rollback.message}".lstrip("; ")
    return error.model_copy(update={"details": details, "hint": hint, "why": why})
