"""Leases as results show them, and what is owed for those that are over."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot
from gpumod.engine.leases import in_words, over, standing, used_mb
from gpumod.engine.machine import Machine
from gpumod.engine.room import debt_of
from gpumod.operations.results import LeaseRow

BACK = "gpumod free --back"


def lease_row(machine: Machine, holding: Holding, snapshot: HostSnapshot) -> LeaseRow:
    """A lease as results show it."""
    return _row(holding, _used_mb(machine, snapshot))


def lease_rows(machine: Machine, snapshot: HostSnapshot) -> tuple[LeaseRow, ...]:
    """The leases that hold."""
    used = _used_mb(machine, snapshot)
    return tuple(_row(holding, used) for holding in standing(machine))


def _used_mb(machine: Machine, snapshot: HostSnapshot) -> Mapping[str, int]:
    """What the holders of leases have taken, by lease, of the GPUs that there are."""
    known = {gpu.index for gpu in snapshot.gpus}
    return used_mb(machine, snapshot, [holding for holding in standing(machine) if holding.gpu in known])


def _row(holding: Holding, used: Mapping[str, int]) -> LeaseRow:
    fields = holding.model_dump(include={"id", "holder", "gpu", "vram_mb", "since", "until", "pid"})
    return LeaseRow(**fields, used_mb=used.get(holding.id, 0), in_words=in_words(holding))


def to_put_back(machine: Machine) -> str:
    """What is owed for leases that are over, in one line; nothing where a switch came since."""
    debt = debt_of(machine, over(machine))
    return f"{', '.join(debt.before)} made room for somebody who is gone: {BACK}" if debt.before else ""
