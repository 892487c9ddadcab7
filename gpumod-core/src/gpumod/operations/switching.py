"""switch, simulate: what a mode takes, and going there."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gpumod.domain.errors import ErrorInfo, GpumodError, MachineLacks, Stale, UnknownName, UsageError
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
from gpumod.operations.base import Base, OnProgress, change_result, drift, reporter, restarts, unknown
from gpumod.operations.modes import target_of_mode
from gpumod.operations.params import SimulateParams, SwitchParams
from gpumod.operations.results import ChangeResult, SimulateResult
from gpumod.planner import apply_changes
from gpumod.planner.changes import edited_by, with_needs
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
        self._refuse_strangers(params.remove, [m.service for m in (*target.members, *added)], services)
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

    def _refuse_strangers(
        self, removed: Iterable[str], members: Collection[str], services: Mapping[str, Service]
    ) -> None:
        """Raise where something is to be left out that is not there to begin with."""
        for name in removed:
            if name not in members:
                self._service(name, services)
                raise UsageError(
                    "not-a-member",
                    f"{name} cannot be left out: it is not among the services that are simulated",
                    why=f"these are: {', '.join(members) or 'none'}",
                    hint=f"leave --remove {name} away",
                )

    async def switch(self, params: SwitchParams, progress: OnProgress = None) -> ChangeResult:
        """Go to a mode: everything that it does not name stops, unless it is pinned.

        "-" is the previous mode as it was: with the alternative of it that had been taken.
        """
        mode_id, alternative = self._place(params)
        self._check_drivers(self._mode(mode_id))
        back = params.alternative is None
        notes = self._came_back(mode_id, alternative) if back else ()

        def build(snapshot: HostSnapshot) -> Wanted:
            if alternative is None:
                return Wanted(target_of_mode(self._mode(mode_id)), self._machine.store.services())
            try:
                return self._alternative(mode_id, alternative, snapshot)
            except (Stale, UnknownName, UsageError) as error:
                if not back:
                    raise
                raise _gone(mode_id, alternative, error.info) from error

        options = Options(force=params.force, rollback=not params.no_rollback, cascade=True, timeout_s=params.timeout_s)
        if params.dry_run:
            snapshot = await observe(self._machine)
            shown = dry(plan_for(self._machine, snapshot, build(snapshot), options), mode_id)
            return shown.model_copy(update={"notes": notes})
        command = f"switch {mode_id} --with {alternative}" if alternative else f"switch {mode_id}"
        outcome = await change(self._machine, command, build, options, reporter(progress))
        if alternative is None:
            self._keep_refused(outcome, mode_id)
        elif outcome.status is RunStatus.REFUSED:
            fits_no_longer = Stale(
                "stale-alternative",
                f"alternative {alternative} no longer fits",
                why=outcome.plan.why,
                hint=f"gpumod simulate --mode {mode_id} shows what fits now",
            )
            raise _gone(mode_id, alternative, fits_no_longer.info) if back else fits_no_longer
        result = change_result(outcome, mode_id, self._machine.store.current_mode())
        return result.model_copy(update={"notes": (*notes, *result.notes)})

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

    def _place(self, params: SwitchParams) -> tuple[str, str | None]:
        """The mode that is asked for, and the alternative of it."""
        if params.mode != "-":
            return params.mode, params.alternative
        store = self._machine.store
        previous = store.previous_mode()
        if previous is None:
            raise UsageError("no-previous-mode", "there is no previous mode", hint="gpumod switch MODE")
        return previous, params.alternative or store.previous_alternative()

    def _came_back(self, mode_id: str, alternative_id: str | None) -> tuple[str, ...]:
        """What to say of an alternative that is taken without being named."""
        stored = self._machine.store.simulation_with(alternative_id) if alternative_id else None
        titles = [a.title for a in stored.plan.alternatives if a.id == alternative_id] if stored else []
        return tuple(f"mode {mode_id} as it was: with alternative {alternative_id} ({title})" for title in titles)

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
        wanted = taken(self._asked(params, snapshot), found, snapshot)
        return Wanted(wanted.target.model_copy(update={"alternative": alternative_id}), wanted.services)


def _gone(mode_id: str, alternative_id: str, error: ErrorInfo) -> Stale:
    """The error where the previous mode cannot come back with the alternative that had been taken."""
    return Stale(
        "stale-alternative",
        f"mode {mode_id} cannot come back as it was: with alternative {alternative_id}",
        why=f"{error.message}: {error.why}" if error.why else error.message,
        hint=f"gpumod switch {mode_id} goes to the mode as it is defined now; gpumod simulate --mode {mode_id} shows "
        "what fits",
    )


def taken(asked: Wanted, alternative: Alternative, snapshot: HostSnapshot) -> Wanted:
    """`asked` with an alternative's changes. Raises Stale when what it changes is no longer there."""
    changes = alternative.changes
    there = with_needs(asked.services, [member.service for member in asked.target.members])
    lost = {*changes.time_share, *changes.replace, *changes.leave_out, *edited_by(changes)} - there
    try:
        if lost:
            raise ValueError(f"{', '.join(sorted(lost))} is no longer among the services")
        target, services = apply_changes(asked.target, asked.services, changes)
    except (GpumodError, KeyError, ValueError) as error:
        raise Stale(
            "stale-alternative",
            f"alternative {alternative.id} can no longer be applied",
            why=str(error),
            hint="simulate again",
        ) from error
    changed = {s: d for s, d in services.items() if asked.services.get(s) != d}
    # what runs as the alternative has it already (it was taken before) need not restart
    again = tuple(s for s in target.restart if s not in changed or drift(changed[s], snapshot.reading(s)))
    return _with(target.model_copy(update={"restart": again}), services, changed, snapshot)


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
