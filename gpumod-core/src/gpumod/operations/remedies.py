"""What a failed start proposes in its own log, as an alternative that can be taken by its id."""

from __future__ import annotations

import uuid
from dataclasses import replace

from gpumod.domain.errors import ErrorInfo, GpumodError
from gpumod.domain.plan import Alternative, Changes, Variant
from gpumod.domain.run import RunStatus
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.engine.runs import Outcome
from gpumod.operations.targets import Targets, taken, target_of_mode
from gpumod.planner.ids import alternative_id
from gpumod.ports import Simulation


class Remedies(Targets):
    async def _with_remedy(self, outcome: Outcome, mode_id: str) -> Outcome:
        """The outcome of a switch that was rolled back, with what the service that failed proposes: planned, found to
        fit, and stored."""
        error = outcome.error
        if error is None or outcome.status is not RunStatus.ROLLED_BACK or "remedy" not in error.details:
            return outcome
        try:
            found = await self._remedy(error, mode_id)
            if found is None:
                return outcome
            plan = outcome.plan.model_copy(update={"alternatives": (found,)})
            at = self._machine.clock.now()
            simulation = Simulation(id=uuid.uuid4().hex[:12], at=at, base={"mode": mode_id}, plan=plan)
            self._machine.store.add_simulation(simulation)
        except GpumodError:  # the failure is what counts; its hint says what to edit
            return outcome
        hint = f"{error.hint}; for this switch alone: gpumod switch {mode_id} --with {found.id}"
        details = {**error.details, "alternatives": [found.id]}
        told = error.model_copy(update={"hint": hint, "details": details})
        return replace(outcome, plan=plan, error=told)

    async def _remedy(self, error: ErrorInfo, mode_id: str) -> Alternative | None:
        """The alternative; None where it does not fit."""
        service, variant = str(error.details["service"]), Variant.model_validate(error.details["remedy"])
        target = target_of_mode(self._mode(mode_id))
        changes = Changes(unit_vars={service: dict(variant.unit_vars)})
        found = Alternative(
            id=alternative_id(target, changes),
            kind=variant.kind,
            title=f"{service} with {variant.title}",
            changes=changes,
            verdict="fits",
            peak_mb=0,
            cost=variant.cost,
        )
        snapshot = await observe(self._machine)
        wanted = taken(Wanted(target, self._machine.store.services()), found, snapshot)
        plan = plan_for(self._machine, snapshot, wanted, Options(cascade=True)).plan
        if not plan.fits:
            return None
        peak_mb = max((gpu.peak_mb for gpu in plan.gpus), default=0)
        return found.model_copy(update={"verdict": plan.verdict, "peak_mb": peak_mb})
