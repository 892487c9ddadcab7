"""Handles, measurements, simulations and GPU profiles in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from gpumod.adapters.store.connect import Database
from gpumod.adapters.store.definitions import unknown
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import dump, load
from gpumod.adapters.store.tables import GpuProfileRow, HandleRow, SimulationRow, VramSampleRow
from gpumod.domain.errors import GpumodError
from gpumod.domain.machine import GpuProfile, GpuReading
from gpumod.domain.run import Event, Handle, Sample
from gpumod.ports import Simulation

MEDIAN_OF = 5
"""Times are the median of so many last measurements."""
KEPT_SAMPLES = 20
"""So many measurements of one kind are kept for one service and key."""

_HANDLE_COLUMNS = frozenset({"service", "supervisor", "nonce", "started_at"})
_SIMULATION_COLUMNS = frozenset({"id", "at"})


class Records:
    """The part of the store that holds what gpumod itself noted."""

    _db: Database

    def handles(self) -> Mapping[str, Handle]:
        """The handles by service. Raises Failed(`bad-row`): what runs must not be forgotten."""
        with self._db.read() as session:
            return {row.service: _handle(row) for row in session.exec(select(HandleRow).order_by(HandleRow.service))}

    def put_handle(self, handle: Handle, *, event: Event) -> None:
        columns = {name: getattr(handle, name) for name in _HANDLE_COLUMNS}
        with self._db.write() as session:
            session.merge(HandleRow(**columns, definition=dump(handle, _HANDLE_COLUMNS)))
            add_event(session, event)

    def delete_handle(self, service_id: str, *, event: Event) -> None:
        """Raises UnknownName(`unknown-handle`)."""
        with self._db.write() as session:
            row = session.get(HandleRow, service_id)
            if row is None:
                raise unknown("handle", service_id, ())
            session.delete(row)
            add_event(session, event)

    def add_sample(self, sample: Sample) -> None:
        """Keep a measurement; old ones that no answer depends on are dropped."""
        with self._db.write() as session:
            session.add(VramSampleRow(**sample.model_dump()))
            session.flush()
            _prune(session, sample)

    def samples(self) -> Mapping[tuple[str, str], Mapping[str, float]]:
        """What is known by measurement, by (service, key) and kind.

        Times (s) are the median of the last five, `peak_mb` the highest, `settled_mb` and `asleep_mb` the last.
        """
        values: dict[tuple[str, str], dict[str, list[float]]] = {}
        with self._db.read() as session:
            for row in session.exec(select(VramSampleRow).order_by(col(VramSampleRow.seq))):
                values.setdefault((row.service, row.key), {}).setdefault(row.kind, []).append(row.value)
        return {known: {kind: _summary(kind, seen) for kind, seen in kinds.items()} for known, kinds in values.items()}

    def add_simulation(self, simulation: Simulation) -> None:
        row = SimulationRow(
            id=simulation.id,
            at=simulation.at,
            verdict=simulation.plan.verdict.value,
            alternatives=json.dumps([alternative.id for alternative in simulation.plan.alternatives]),
            definition=dump(simulation, _SIMULATION_COLUMNS),
        )
        with self._db.write() as session:
            session.add(row)

    def simulations(self, limit: int) -> tuple[Simulation, ...]:
        """The last `limit` simulations, the newest first. A row that is no longer valid is left out."""
        with self._db.read() as session:
            rows = session.exec(select(SimulationRow).order_by(col(SimulationRow.seq).desc()).limit(limit))
            return tuple(found for row in rows if (found := _simulation(row)) is not None)

    def simulation_with(self, alternative_id: str) -> Simulation | None:
        """The newest simulation that offered this alternative."""
        named = col(SimulationRow.alternatives).contains(json.dumps(alternative_id), autoescape=True)
        with self._db.read() as session:
            for row in session.exec(select(SimulationRow).where(named).order_by(col(SimulationRow.seq).desc())):
                found = _simulation(row)
                if found and any(offered.id == alternative_id for offered in found.plan.alternatives):
                    return found
        return None

    def put_gpu_profiles(self, gpus: Sequence[GpuReading]) -> None:
        """Note the GPUs that this machine has, in place of what was noted before."""
        with self._db.write() as session:
            session.exec(delete(GpuProfileRow))
            session.add_all(
                GpuProfileRow(gpu_index=gpu.index, name=gpu.name, uuid=gpu.uuid, total_mb=gpu.total_mb) for gpu in gpus
            )

    def gpu_profiles(self) -> tuple[GpuProfile, ...]:
        """The GPUs that were noted last."""
        with self._db.read() as session:
            rows = session.exec(select(GpuProfileRow).order_by(col(GpuProfileRow.gpu_index)))
            return tuple(GpuProfile(index=r.gpu_index, name=r.name, uuid=r.uuid, total_mb=r.total_mb) for r in rows)


def _handle(row: HandleRow) -> Handle:
    columns = {name: getattr(row, name) for name in _HANDLE_COLUMNS}
    return load(Handle, "handles", row.service, row.definition, columns)


def _simulation(row: SimulationRow) -> Simulation | None:
    try:
        return load(Simulation, "simulations", row.id, row.definition, {"id": row.id, "at": row.at})
    except GpumodError:
        return None


def _summary(kind: str, values: Sequence[float]) -> float:
    if kind == "peak_mb":
        return max(values)
    return median(values[-MEDIAN_OF:]) if kind.endswith("_s") else values[-1]


def _prune(session: Session, sample: Sample) -> None:
    same = (
        (col(VramSampleRow.service) == sample.service)
        & (col(VramSampleRow.key) == sample.key)
        & (col(VramSampleRow.kind) == sample.kind)
    )
    if sample.kind == "peak_mb":
        highest = session.exec(select(func.max(VramSampleRow.value)).where(same)).one()
        session.exec(delete(VramSampleRow).where(same & (col(VramSampleRow.value) < highest)))
    newest = select(VramSampleRow.seq).where(same).order_by(col(VramSampleRow.seq).desc()).limit(KEPT_SAMPLES)
    session.exec(delete(VramSampleRow).where(same & col(VramSampleRow.seq).not_in(newest)))
