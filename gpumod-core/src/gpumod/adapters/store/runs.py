"""Runs and their steps: the journal by which a run that was cut off is closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import case, func, not_, or_
from sqlmodel import Session, col, select

from gpumod.adapters.store.connect import Database, run_sql
from gpumod.adapters.store.definitions import unknown
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import dump, dump_optional, load, parse
from gpumod.adapters.store.state import enter_mode
from gpumod.adapters.store.tables import RunRow, RunStepRow
from gpumod.domain.errors import ErrorInfo, GpumodError, HalfWay
from gpumod.domain.run import CUT_OFF, Event, Run, RunStatus, RunStep, StepStatus

KEPT_RUNS = 2_000
"""So many runs are kept of those that come by themselves. The oldest are dropped, with their steps."""
KEPT_BY_HAND = 20_000
"""So many of all others: those that people asked for are not crowded out."""

_COMMAND = col(RunRow.command)
_OF_USE = or_(_COMMAND.like("turn %"), _COMMAND.like("watch: sleep %"), _COMMAND == "service sleep-idle")
_OPEN = (RunStatus.RUNNING.value, RunStatus.HALF_WAY.value)
_RUN_COLUMNS = frozenset({"id", "command", "holder", "status", "mode_before", "started_at", "ended_at"})
_BY_ITSELF = "(command LIKE 'watch: %' OR command LIKE 'turn %' OR command = 'service sleep-idle')"
_KEEP_NEWEST = (
    f"DELETE FROM runs WHERE status NOT IN ('running', 'half-way') AND seq IN (SELECT seq FROM runs"  # noqa: S608  # a constant
    f" WHERE {_BY_ITSELF} = :by_itself ORDER BY seq DESC LIMIT -1 OFFSET :kept)"
)
_LOOK_EVERY = 50
"""So many runs are added before the old ones are looked at again: that is to read all of them."""
_UPDATE_STEP = (
    "UPDATE run_steps SET status = :status, started_at = :started_at, seconds = :seconds, error = :error,"
    " detail = :detail, definition = :definition WHERE run_id = :run_id AND phase = :phase AND n = :n"
)
_STEP_COLUMNS = frozenset({"n", "phase", "status", "started_at", "seconds", "detail"})


class Runs:
    """The part of the store that holds runs. One run may be open (running or half-way) at a time."""

    _db: Database

    def add_run(self, run: Run) -> None:
        """Write a run and its steps. Raises HalfWay(`run-open`) when an open run is added beside another."""
        row = RunRow(
            **{name: getattr(run, name) for name in _RUN_COLUMNS - {"status"}},
            status=run.status.value,
            error=dump_optional(run.error),
            definition=dump(run, _RUN_COLUMNS | {"steps", "error"}),
        )
        with self._db.write() as session:
            if run.status.value in _OPEN:
                _refuse_second(session)
            session.add(row)
            session.flush()
            if (row.seq or 0) % _LOOK_EVERY == 0:
                run_sql(session, _KEEP_NEWEST, by_itself=1, kept=KEPT_RUNS)
                run_sql(session, _KEEP_NEWEST, by_itself=0, kept=KEPT_BY_HAND)
            session.add_all(_step_row(run.id, step) for step in run.steps)
            data = {"command": run.command, "mode": run.target.mode, "status": run.status.value}
            add_event(session, Event(at=run.started_at, kind="run-added", subject=run.id, data=data))

    def add_steps(self, run_id: str, steps: Sequence[RunStep]) -> None:
        """Add steps to a run. A step is known by its phase and `n`, which no other step of the run has."""
        with self._db.write() as session:
            _row(session, run_id)
            session.add_all(_step_row(run_id, step) for step in steps)

    def update_step(self, run_id: str, step: RunStep) -> None:
        """Write what became of a step. Raises UnknownName(`unknown-step`)."""
        with self._db.write() as session:
            key = {"run_id": run_id, "phase": step.phase, "n": step.n}
            if not run_sql(session, _UPDATE_STEP, **key, **_step_values(step)).rowcount:
                raise unknown("step", f"{run_id} {step.phase} {step.n}", ())
            if step.status in (StepStatus.DONE, StepStatus.FAILED):
                add_event(session, _step_event(run_id, step))

    def finish_run(self, run: Run, *, mode: str | None, set_mode: bool) -> None:
        """Write a run's status, error and end, and with `set_mode` the mode that the machine is in: all or nothing.

        With the mode goes the alternative of the run's target.

        A status of half-way leaves the run open. Raises UnknownName(`unknown-run`).
        """
        at = run.started_at if run.ended_at is None else run.ended_at
        with self._db.write() as session:
            row = _row(session, run.id)
            row.status = run.status.value
            row.error = dump_optional(run.error)
            row.ended_at = run.ended_at
            session.add(row)
            if set_mode:
                enter_mode(session, mode, run.target.alternative, at)
            data = {"status": run.status.value, "error": run.error.code if run.error else None}
            add_event(session, Event(at=at, kind="run-finished", subject=run.id, data=data))

    def run(self, run_id: str) -> Run:
        """Raises UnknownName(`unknown-run`) and Failed(`bad-row`)."""
        with self._db.read() as session:
            return _runs(session, [_row(session, run_id)])[0]

    def runs(self, limit: int, *, of_use: bool = True) -> tuple[Run, ...]:
        """The last `limit` runs, the newest first; without those `of_use` (turns and idle sleep: they are many, and no
        person has decided anything by them). A run whose row is no longer valid is left out."""
        found: list[Run] = []
        asked = select(RunRow) if of_use else select(RunRow).where(not_(_OF_USE))
        with self._db.read() as session:
            for row in session.exec(asked.order_by(col(RunRow.seq).desc()).limit(limit)):
                try:
                    found += _runs(session, [row])
                except GpumodError:
                    continue
        return tuple(found)

    def run_ids(self, beginning: str, limit: int) -> tuple[str, ...]:
        """The ids of the last `limit` runs that begin with `beginning`; one that is just that comes first, then the
        newest."""
        named = col(RunRow.id).startswith(beginning, autoescape=True)
        first = case((col(RunRow.id) == beginning, 0), else_=1)
        with self._db.read() as session:
            return tuple(
                session.exec(select(RunRow.id).where(named).order_by(first, col(RunRow.seq).desc()).limit(limit))
            )

    def last_errors(self) -> Mapping[str, str]:
        """Service to the message of its last step, where that step failed.

        Steps of a way back do not count, nor those that were cut off: that says nothing about the service.
        Looks at the last few hundred steps.
        """
        ended = [StepStatus.DONE.value, StepStatus.FAILED.value]
        service = func.json_extract(RunStepRow.definition, "$.step.service")
        readable = func.json_valid(RunStepRow.definition) == 1
        applied = [readable, col(RunStepRow.phase) == "apply", col(RunStepRow.status).in_(ended)]
        query = select(service, RunStepRow.error).where(*applied)
        found: dict[str, ErrorInfo | None] = {}
        with self._db.read() as session:
            for name, text in session.exec(query.order_by(col(RunStepRow.seq).desc()).limit(400)):
                error = None if text is None else _error(text)
                if error is None or error.code not in CUT_OFF:
                    found.setdefault(name, error)
        return {name: error.message for name, error in found.items() if error}

    def open_run(self) -> Run | None:
        """The run that is running or half-way, if there is one. Raises Failed(`bad-row`)."""
        with self._db.read() as session:
            row = session.exec(_open_rows()).first()
            return None if row is None else _runs(session, [row])[0]


def _error(text: str) -> ErrorInfo:
    """A stored error; of one that was broken by hand its text."""
    try:
        return ErrorInfo.model_validate_json(text)
    except ValidationError:
        return ErrorInfo(code="bad-row", message=text)


def _open_rows() -> Any:
    return select(RunRow).where(col(RunRow.status).in_(_OPEN)).order_by(col(RunRow.seq).desc()).limit(1)


def _refuse_second(session: Session) -> None:
    other = session.exec(_open_rows()).first()
    if other is not None:
        raise HalfWay(
            "run-open",
            f"run {other.id} ({other.command}) is still open",
            why="it was cut off, or is at work now",
            hint="`gpumod recover --resume` or `gpumod recover --rollback` closes it",
            run_id=other.id,
        )


def _row(session: Session, run_id: str) -> RunRow:
    row = session.exec(select(RunRow).where(RunRow.id == run_id)).one_or_none()
    if row is None:
        raise unknown("run", run_id, session.exec(select(RunRow.id)))
    return row


def _runs(session: Session, rows: Sequence[RunRow]) -> list[Run]:
    steps: dict[str, list[RunStep]] = {row.id: [] for row in rows}
    wanted = select(RunStepRow).where(col(RunStepRow.run_id).in_(list(steps))).order_by(col(RunStepRow.seq))
    for step in session.exec(wanted):
        name = f"{step.run_id}/{step.phase}/{step.n}"
        columns = {column: getattr(step, column) for column in _STEP_COLUMNS}
        columns["error"] = _optional("run_steps", name, step.error)
        steps[step.run_id].append(load(RunStep, "run_steps", name, step.definition, columns))
    found = []
    for row in rows:
        columns = {column: getattr(row, column) for column in _RUN_COLUMNS}
        columns |= {"error": _optional("runs", row.id, row.error), "steps": steps[row.id]}
        found.append(load(Run, "runs", row.id, row.definition, columns))
    return found


def _optional(table: str, row: str, text: str | None) -> Any:
    return None if text is None else parse(table, row, "error", text)


def _step_row(run_id: str, step: RunStep) -> RunStepRow:
    return RunStepRow(run_id=run_id, phase=step.phase, n=step.n, **_step_values(step))


def _step_values(step: RunStep) -> Mapping[str, Any]:
    return {
        "status": step.status.value,
        "started_at": step.started_at,
        "seconds": step.seconds,
        "error": dump_optional(step.error),
        "detail": step.detail,
        "definition": dump(step, _STEP_COLUMNS | {"error"}),
    }


def _step_event(run_id: str, step: RunStep) -> Event:
    at = (step.started_at or 0.0) + (step.seconds or 0.0)
    data = {"run": run_id, "phase": step.phase, "n": step.n, "action": step.step.action.value}
    return Event(at=at, kind=f"step-{step.status.value}", subject=step.step.service, data=data)
