"""history, recover: what happened, and closing what was left half-way."""

from __future__ import annotations

import asyncio

from gpumod.domain.base import is_id
from gpumod.domain.errors import GpumodError, UsageError
from gpumod.domain.run import Run, RunStatus
from gpumod.domain.secrets import discreet
from gpumod.engine.debts import left_awake
from gpumod.engine.observe import observe
from gpumod.engine.open_runs import at_work, left_half_way
from gpumod.engine.planning import Options
from gpumod.engine.recover import recover
from gpumod.engine.turns import over_turns
from gpumod.operations.base import Base, OnProgress, change_result, reporter, unknown
from gpumod.operations.box_results import APPLY_NOW
from gpumod.operations.following import ended_with, followed
from gpumod.operations.leases import to_put_back
from gpumod.operations.params import ListParams, RecoverParams, RunRef
from gpumod.operations.results import (
    HistoryListResult,
    HistoryResult,
    RecoverResult,
    RunRow,
    SimulationRow,
    SimulationsResult,
)

SHOWN = 20
"""So many ids are named where one is asked for that is not there, or not alone."""


NOT_STORED = "what runs is as the document has it, but that was not stored: gpumod apply -f FILE again"
"""What to say of an `apply --now` that was gone on with: its gpumod would have stored the document afterwards."""


class History(Base):
    async def history_list(self, params: ListParams) -> HistoryListResult:
        """The last runs, newest first, and the last events."""
        store = self._machine.store
        return HistoryListResult(
            runs=tuple(_row(run) for run in store.runs(params.limit)), events=store.events(params.limit)
        )

    async def history_show(self, params: RunRef, progress: OnProgress = None) -> HistoryResult:
        """One run with every step; with `follow`, as it goes on until it has ended."""
        run = self._run(params.run)
        if not params.follow:
            return HistoryResult(run=discreetly(run))
        run = await followed(self._machine, run, reporter(progress))
        code, error = ended_with(run)
        return HistoryResult(run=discreetly(run), exit_code=code, error=error)

    def _run(self, named: str) -> Run:
        """A run by its id, the beginning of it, or "last". Raises UnknownName, and UsageError `ambiguous-run`."""
        store = self._machine.store
        if named == "last":
            newest = store.run_ids("", 1)
            if not newest:
                raise unknown("run", named, (), "gpumod history list")
            return store.run(newest[0])
        found = store.run_ids(named, SHOWN + 1) if is_id(named) else ()
        if not found:
            raise unknown("run", named, store.run_ids("", SHOWN), "gpumod history list")
        if named not in found and len(found) > 1:
            listed = ", ".join(found[:SHOWN])
            why = f"{listed} and others" if len(found) > SHOWN else listed
            raise UsageError(
                "ambiguous-run", f"{named!r} begins the ids of several runs", why=why, hint="give more of it"
            )
        return store.run(named if named in found else found[0])

    async def simulations(self, params: ListParams) -> SimulationsResult:
        """The last simulations, newest first."""
        return SimulationsResult(
            simulations=tuple(
                SimulationRow(
                    id=s.id,
                    at=s.at,
                    base=s.base,
                    verdict=s.plan.verdict,
                    peak_mb=max((gpu.peak_mb for gpu in s.plan.gpus), default=0),
                    alternatives=tuple(a.id for a in s.plan.alternatives),
                )
                for s in self._machine.store.simulations(params.limit)
            )
        )

    async def _left_awake(self) -> tuple[str, ...]:
        """What is awake for turns that are over, as far as the machine can be observed."""
        if not over_turns(self._machine):
            return ()
        try:
            return tuple(left_awake(self._machine, await observe(self._machine)).values())
        except GpumodError:
            return ()

    async def recover(self, params: RecoverParams, progress: OnProgress = None) -> RecoverResult:
        """Close the run that was left half-way, or (without a way) show it. One that somebody is at work on is none.

        What is shown is half-way, also where its gpumod was killed before it could write that down.
        """
        store = self._machine.store
        if params.way is None or store.open_run() is None:
            run, holder = await asyncio.to_thread(left_half_way, self._machine)
            due = to_put_back(self._machine)
            awake = await self._left_awake() if run is None else ()
            return RecoverResult(
                open_run=run and discreetly(run).model_copy(update={"status": RunStatus.HALF_WAY}),
                busy=at_work(holder) if holder else None,
                notes=(*((due,) if due and run is None else ()), *awake),
            )
        options = Options(force=params.force, cascade=True)
        outcome = await recover(self._machine, params.way, options, reporter(progress))
        if outcome is None:
            return RecoverResult(open_run=None)
        left, closed = store.open_run(), outcome.run
        half = params.way == "resume" and outcome.status is RunStatus.DONE and closed and closed.command == APPLY_NOW
        return RecoverResult(
            open_run=left and discreetly(left),
            change=change_result(outcome, store.current_mode(), store.current_mode()),
            notes=(*outcome.notes, *((NOT_STORED,) if half else ())),
        )


def discreetly(run: Run) -> Run:
    """`run` as it may be shown: the definitions in it without their secrets."""
    before = {
        s: reading.model_copy(update={"launched": reading.launched and discreet(reading.launched)})
        for s, reading in run.before.items()
    }
    kept = {"definitions": run.definitions, "wanted": run.wanted}
    shown = {field: {s: discreet(found) for s, found in services.items()} for field, services in kept.items()}
    return run.model_copy(update={"before": before, **shown})


def _row(run: Run) -> RunRow:
    return RunRow(
        id=run.id,
        command=run.command,
        status=run.status,
        mode=run.target.mode,
        started_at=run.started_at,
        seconds=None if run.ended_at is None else round(run.ended_at - run.started_at, 3),
        steps=len(run.plan.steps),
        error=run.error,
    )
