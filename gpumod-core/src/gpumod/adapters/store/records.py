"""Measurements, simulations and GPU profiles in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median

from sqlmodel import col, delete, select

from gpumod.adapters.store.connect import Database, run_sql
from gpumod.adapters.store.rows import dump, load
from gpumod.adapters.store.tables import GpuProfileRow, SimulationRow, VramSampleRow
from gpumod.domain.cards import profile_of
from gpumod.domain.errors import GpumodError
from gpumod.domain.machine import GpuProfile, GpuReading
from gpumod.domain.run import Sample
from gpumod.ports import Simulation

MEDIAN_OF = 5
"""Times are the median of so many last measurements."""
KEPT_SAMPLES = 20
"""So many measurements of one kind are kept for one service and key."""

_ADD_SAMPLE = "INSERT INTO vram_samples (service, key, at, kind, value) VALUES (:service, :key, :at, :kind, :value)"
_KEEP_HIGHEST = (
    "WITH same AS (SELECT seq, value FROM vram_samples WHERE service = :service AND key = :key AND kind = :kind)"
    " DELETE FROM vram_samples WHERE seq IN (SELECT seq FROM same WHERE value < (SELECT max(value) FROM same))"
)
_KEEP_NEWEST = (
    "WITH same AS (SELECT seq FROM vram_samples WHERE service = :service AND key = :key AND kind = :kind)"
    " DELETE FROM vram_samples WHERE seq IN (SELECT seq FROM same ORDER BY seq DESC LIMIT -1 OFFSET :kept)"
)
_SIMULATION_COLUMNS = frozenset({"id", "at"})


class Records:
    """The part of the store that holds what gpumod itself noted."""

    _db: Database

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Keep measurements; old ones that no answer depends on are dropped."""
        with self._db.write() as session:
            for sample in samples:
                same = {"service": sample.service, "key": sample.key, "kind": sample.kind}
                run_sql(session, _ADD_SAMPLE, **same, at=sample.at, value=sample.value)
                if sample.kind == "peak_mb":
                    run_sql(session, _KEEP_HIGHEST, **same)
                run_sql(session, _KEEP_NEWEST, **same, kept=KEPT_SAMPLES)

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
                GpuProfileRow(gpu_index=card.index, **card.model_dump(exclude={"index"}))
                for card in map(profile_of, gpus)
            )

    def gpu_profiles(self) -> tuple[GpuProfile, ...]:
        """The GPUs that were noted last."""
        with self._db.read() as session:
            rows = session.exec(select(GpuProfileRow).order_by(col(GpuProfileRow.gpu_index)))
            return tuple(
                GpuProfile(index=r.gpu_index, **r.model_dump(exclude={"gpu_index"}, exclude_none=True)) for r in rows
            )


def _simulation(row: SimulationRow) -> Simulation | None:
    try:
        return load(Simulation, "simulations", row.id, row.definition, {"id": row.id, "at": row.at})
    except GpumodError:
        return None


def _summary(kind: str, values: Sequence[float]) -> float:
    if kind == "peak_mb":
        return max(values)
    return median(values[-MEDIAN_OF:]) if kind.endswith("_s") else values[-1]
