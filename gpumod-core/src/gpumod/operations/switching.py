"""switch, simulate: what a mode takes, and going there."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from gpumod.domain.errors import GpumodError, MachineLacks, Stale, UsageError
from gpumod.domain.machine import GpuReading, HostSnapshot
from gpumod.domain.mode import Mode, Want
from gpumod.domain.plan import Alternative, Target, TargetMember
from gpumod.domain.run import RunStatus
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.engine.change import change, misfit
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Planned, Wanted, plan_for
from gpumod.engine.runs import Outcome
from gpumod.operations.base import Base, OnProgress, change_result, reporter, restarts, unknown
from gpumod.operations.modes import target_of_mode
from gpumod.operations.params import SimulateParams, SwitchParams
from gpumod.operations.results import ChangeResult, SimulateResult
from gpumod.planner import apply_changes
from gpumod.ports import Simulation

IMAGINARY_RAM_MB = 1_000_000
"""Host RAM of an imaginary machine (`--gpu-total`): not the question there."""


class Switching(Base):
    async def simulate(self, params: SimulateParams) -> SimulateResult:
        """Plan without executing; stored where the home can be written, so that an alternative can be taken by id."""
        options = Options(cascade=True, force=params.gpu_total_mb is not None)  # nobody leases an imaginary card
        if params.gpu_total_mb is None:
            snapshot = await observe(self._machine)
        else:
            snapshot = imaginary(params.gpu_total_mb, self._machine.clock.now())
        planned = plan_for(self._machine, snapshot, self._asked(params, snapshot), options)
        stored: str | None = uuid.uuid4().hex[:12]
        base = params.model_dump(mode="json", exclude_defaults=True)
        try:
            self._machine.store.add_simulation(
                Simulation(id=stored or "", at=self._machine.clock.now(), base=base, plan=planned.plan)
            )
        except MachineLacks:  # a read-only home: the answer is still right, it just has no id
            stored = None
        return SimulateResult.model_validate({**planned.plan.model_dump(), "simulation_id": stored})

    def _asked(self, params: SimulateParams, snapshot: HostSnapshot) -> Wanted:
        """What a simulation is about: a base, with services added and removed and contexts changed."""
        if params.mode is not None and params.services is not None:
            raise UsageError("bad-input", "--mode and --services cannot be combined", hint="use --mode with --add")
        services = dict(self._machine.store.services())
        if params.mode is not None:
            target = target_of_mode(self._mode(params.mode))
        elif params.services is not None:
            target = Target(members=tuple(TargetMember(service=s) for s in params.services))
        else:
            target = Target(members=serving(snapshot))
        added = tuple(TargetMember(service=s) for s in params.add if s not in {m.service for m in target.members})
        members = tuple(m for m in (*target.members, *added) if m.service not in params.remove)
        for member in members:
            self._service(member.service, services)
        for name in params.remove:
            self._service(name, services)
        changed: dict[str, Service] = {}
        known = {member.service for member in members}
        for name, tokens in params.context.items():
            self._service(name, services)
            if name not in known:
                raise UsageError(
                    "bad-context",
                    f"{name} is not among the services that are simulated",
                    why=f"these are: {', '.join(sorted(known)) or 'none'}",
                    hint=f"--add {name}",
                )
            try:
                changed[name] = self._service(name, services).with_context(tokens)
            except ValueError as error:
                raise UsageError("bad-context", str(error), hint="give it kv_cache_per_1k and context_size") from error
        return _with(target.model_copy(update={"members": members}), services, changed, snapshot)

    async def switch(self, params: SwitchParams, progress: OnProgress = None) -> ChangeResult:
        """Go to a mode: everything that it does not name stops, unless it is pinned or adopted."""
        mode_id = self._mode_id(params.mode)
        self._check_drivers(self._mode(mode_id))

        def build(snapshot: HostSnapshot) -> Wanted:
            if params.alternative is None:
                return Wanted(target_of_mode(self._mode(mode_id)), self._machine.store.services())
            return self._alternative(mode_id, params.alternative, snapshot)

        options = Options(force=params.force, rollback=not params.no_rollback, cascade=True, timeout_s=params.timeout_s)
        if params.dry_run:
            snapshot = await observe(self._machine)
            return dry(plan_for(self._machine, snapshot, build(snapshot), options), mode_id)
        outcome = await change(self._machine, f"switch {mode_id}", build, options, reporter(progress))
        if params.alternative is None:
            self._keep_refused(outcome, mode_id)
        elif outcome.status is RunStatus.REFUSED:
            raise Stale(
                "stale-alternative",
                f"alternative {params.alternative} no longer fits",
                why=outcome.plan.why,
                hint=f"gpumod simulate --mode {mode_id} shows what fits now",
            )
        return change_result(outcome, mode_id, self._machine.store.current_mode())

    def _check_drivers(self, mode: Mode) -> None:
        """Raise UnknownName where a member's driver is not installed: a plan without its word would mislead."""
        services = self._machine.store.services()
        for service in mode.services:
            self._machine.driver(self._service(service, services))

    def _keep_refused(self, outcome: Outcome, mode_id: str) -> None:
        """Store a refused plan as a simulation, so that its alternatives can be taken by id."""
        if outcome.status is RunStatus.REFUSED and outcome.plan.alternatives:
            simulation = Simulation(
                id=uuid.uuid4().hex[:12],
                at=self._machine.clock.now(),
                base={"mode": mode_id},
                plan=outcome.plan,
            )
            self._machine.store.add_simulation(simulation)

    def _mode_id(self, asked: str) -> str:
        if asked != "-":
            return asked
        previous = self._machine.store.previous_mode()
        if previous is None:
            raise UsageError("no-previous-mode", "there is no previous mode", hint="gpumod switch MODE")
        return previous

    def _alternative(self, mode_id: str, alternative_id: str, snapshot: HostSnapshot) -> Wanted:
        """The target of a stored alternative, made anew from today's definitions."""
        stored = self._machine.store.simulation_with(alternative_id)
        if stored is None:
            offered = {a.id for s in self._machine.store.simulations(50) for a in s.plan.alternatives}
            raise unknown("alternative", alternative_id, offered, f"gpumod simulate --mode {mode_id}")
        found = next(a for a in stored.plan.alternatives if a.id == alternative_id)
        params = SimulateParams.model_validate(stored.base)
        if params.mode != mode_id:
            base = f"mode {params.mode}" if params.mode else "no mode"
            raise UsageError(
                "other-alternative",
                f"alternative {alternative_id} does not belong to mode {mode_id}",
                why=f"it was found for {base}",
                hint=f"gpumod switch {params.mode} --with {alternative_id}" if params.mode else "simulate --mode",
            )
        asked = self._asked(params, snapshot)
        return taken(asked, found, snapshot)


def taken(asked: Wanted, alternative: Alternative, snapshot: HostSnapshot) -> Wanted:
    """`asked` with an alternative's changes. Raises Stale when what it changes is no longer there."""
    try:
        target, services = apply_changes(asked.target, asked.services, alternative.changes)
    except (GpumodError, KeyError, ValueError) as error:
        raise Stale(
            "stale-alternative",
            f"alternative {alternative.id} can no longer be applied",
            why=str(error),
            hint="simulate again",
        ) from error
    changed = {s: d for s, d in services.items() if asked.services.get(s) != d}
    return _with(target, services, changed, snapshot)


def _with(
    target: Target, services: Mapping[str, Service], changed: Mapping[str, Service], snapshot: HostSnapshot
) -> Wanted:
    """Use changed definitions; what is up with another one is restarted."""
    again = restarts(changed, snapshot, [m.service for m in target.members])
    return Wanted(target.model_copy(update={"restart": (*target.restart, *again)}), {**services, **changed})


def serving(snapshot: HostSnapshot) -> tuple[TargetMember, ...]:
    """What serves now, as members."""
    return tuple(
        TargetMember(service=r.service, want=Want.AWAKE if r.state is State.RUNNING else Want.ASLEEP)
        for r in snapshot.services.values()
        if r.state in (State.RUNNING, State.SLEEPING)
    )


def imaginary(total_mb: int, now: float) -> HostSnapshot:
    """A machine with one card of `total_mb` MiB, on which nothing runs."""
    card: dict[str, Any] = {"index": 0, "name": f"{total_mb} MiB card", "total_mb": total_mb}
    return HostSnapshot(
        at=now,
        gpus=(GpuReading(**card, used_mb=0, free_mb=total_mb),),
        ram_total_mb=IMAGINARY_RAM_MB,
        ram_available_mb=IMAGINARY_RAM_MB,
    )


def dry(planned: Planned, mode: str | None) -> ChangeResult:
    """A plan shown instead of executed."""
    plan = planned.plan
    status = RunStatus.DONE if plan.steps else RunStatus.NOTHING_TO_DO
    error = None
    if not plan.fits:
        status, error = RunStatus.REFUSED, misfit(plan)
    return ChangeResult(
        run_id=None, mode=mode, status=status, error=error, plan=plan, dry_run=True, exit_code=0 if plan.fits else 3
    )
