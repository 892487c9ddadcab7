"""switch, simulate: what a mode takes, and going there."""

from __future__ import annotations

import uuid
from typing import Any

from gpumod.domain.errors import ErrorInfo, MachineLacks, Stale, UnknownName, UsageError
from gpumod.domain.machine import GpuReading, HostSnapshot
from gpumod.domain.mode import Mode
from gpumod.domain.run import RunStatus
from gpumod.engine.change import change, misfit
from gpumod.engine.observe import observe_twice
from gpumod.engine.planning import Options, Planned, Wanted, plan_for
from gpumod.engine.runs import Outcome
from gpumod.engine.turns import refuse_taken
from gpumod.operations.base import OnProgress, change_result, reporter
from gpumod.operations.params import SimulateParams, SwitchParams
from gpumod.operations.remedies import Remedies
from gpumod.operations.results import ChangeResult, SimulateResult
from gpumod.operations.targets import as_wanted, in_words, target_of_mode, told_of_edits
from gpumod.ports import Simulation

IMAGINARY_RAM_MB = 1_000_000
"""Host RAM of an imaginary machine (`--gpu-total`): not the question there."""


class Switching(Remedies):
    async def simulate(self, params: SimulateParams) -> SimulateResult:
        """Plan without executing; stored where the home can be written, so that an alternative can be taken by id."""
        options = Options(cascade=True, leases=params.gpu_total_mb is None)  # nobody leases an imaginary card
        if params.gpu_total_mb is None:
            snapshot = await observe_twice(self._machine)
        else:
            snapshot = imaginary(params.gpu_total_mb, self._machine.clock.now())
        asked = self._asked(params, snapshot, self._defined())
        if params.mode is not None or params.services is not None:  # else it is about what runs, as it runs
            asked = as_wanted(asked, snapshot)
        planned = plan_for(self._machine, snapshot, asked, options)
        stored: str | None = uuid.uuid4().hex[:12]
        base = params.model_dump(mode="json", exclude_defaults=True)
        try:
            self._machine.store.add_simulation(
                Simulation(id=stored or "", at=self._machine.clock.now(), base=base, plan=planned.plan)
            )
        except MachineLacks:  # a read-only home: the answer is still right, it just has no id
            stored = None
        notes = (*planned.plan.notes, *self._told_settings())
        return SimulateResult.model_validate({**planned.plan.model_dump(), "notes": notes, "simulation_id": stored})

    async def switch(self, params: SwitchParams, progress: OnProgress = None) -> ChangeResult:
        """Go to a mode: everything that it does not name stops, unless it is pinned.

        "-" is the previous mode as it was: with the alternative of it that had been taken.
        """
        return await self._switch(params, progress)

    async def _switch(self, params: SwitchParams, progress: OnProgress, by: str = "") -> ChangeResult:
        """A switch whose run's command begins with `by`."""
        mode_id, alternative = self._place(params)
        self._check_drivers(self._mode(mode_id))
        back = params.alternative is None
        notes = (*(self._came_back(mode_id, alternative) if back else ()), *self._told_settings())

        seen: list[tuple[Wanted, HostSnapshot]] = []

        def build(snapshot: HostSnapshot) -> Wanted:
            seen[:] = [(asked(snapshot), snapshot)]
            return seen[0][0]

        def asked(snapshot: HostSnapshot) -> Wanted:
            if alternative is None:
                plain = Wanted(target_of_mode(self._mode(mode_id)), self._machine.store.services())
                return as_wanted(plain, snapshot)
            try:
                return self._alternative(mode_id, alternative, snapshot, self._defined())
            except (Stale, UnknownName, UsageError) as error:
                if not back:
                    raise
                raise _gone(mode_id, alternative, error.info) from error

        options = Options(force=params.force, rollback=not params.no_rollback, cascade=True, timeout_s=params.timeout_s)
        if params.dry_run:
            snapshot = await observe_twice(self._machine)
            planned = plan_for(self._machine, snapshot, build(snapshot), options)
            edited = told_of_edits(*seen[0], planned.plan)
            return dry(planned, mode_id, options).model_copy(update={"notes": (*notes, *edited)})
        command = f"{by}switch {mode_id}" + (f" --with {alternative}" if alternative else "")
        outcome = await change(self._machine, command, build, options, reporter(progress))
        if alternative is None:
            self._keep_refused(outcome, mode_id)
            outcome = await self._with_remedy(outcome, mode_id)
        elif outcome.status is RunStatus.REFUSED:
            fits_no_longer = Stale(
                "stale-alternative",
                f"alternative {alternative} no longer fits",
                why=outcome.plan.why,
                hint=f"gpumod simulate --mode {mode_id} shows what fits now",
            )
            raise _gone(mode_id, alternative, fits_no_longer.info) if back else fits_no_longer
        result = change_result(outcome, mode_id, self._machine.store.current_mode())
        edited = told_of_edits(*seen[0], outcome.plan) if seen and result.exit_code == 0 else ()
        return result.model_copy(update={"notes": (*notes, *result.notes, *edited)})

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
        told = self._told(alternative_id) if alternative_id else ""
        return (f"mode {mode_id} as it was: with {told}",) if told else ()


def _gone(mode_id: str, alternative_id: str, error: ErrorInfo) -> Stale:
    """The error where the previous mode cannot come back with the alternative that had been taken."""
    return Stale(
        "stale-alternative",
        f"mode {mode_id} cannot come back as it was: with alternative {alternative_id}",
        why=in_words(error),
        hint=f"gpumod switch {mode_id} goes to the mode as it is defined now; gpumod simulate --mode {mode_id} shows "
        "what fits",
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


def dry(planned: Planned, mode: str | None, options: Options) -> ChangeResult:
    """A plan shown instead of executed. Raises Busy `leased` as executing it would."""
    plan = planned.plan
    if not options.force:
        refuse_taken(planned.taken)
    status = RunStatus.DONE if plan.steps else RunStatus.NOTHING_TO_DO
    error = None
    if not plan.fits:
        status, error = RunStatus.REFUSED, misfit(plan)
    return ChangeResult(
        run_id=None, mode=mode, status=status, error=error, plan=plan, dry_run=True, exit_code=0 if plan.fits else 3
    )
