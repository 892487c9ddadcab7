"""Leases as results show them, and what is owed for those that are over."""

from __future__ import annotations

from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot
from gpumod.engine.leases import in_words, over, standing, used_mb
from gpumod.engine.machine import Machine
from gpumod.engine.room import debt_of
from gpumod.operations.results import LeaseRow

BACK = "gpumod free --back"


def lease_row(machine: Machine, holding: Holding, snapshot: HostSnapshot) -> LeaseRow:
    """A lease as results show it."""
    fields = holding.model_dump(include={"id", "holder", "gpu", "vram_mb", "since", "until", "pid"})
    known = any(gpu.index == holding.gpu for gpu in snapshot.gpus)
    used = used_mb(machine, holding, snapshot) if known else 0
    return LeaseRow(**fields, used_mb=used, in_words=in_words(holding))


def lease_rows(machine: Machine, snapshot: HostSnapshot) -> tuple[LeaseRow, ...]:
    """The leases that hold."""
    return tuple(lease_row(machine, holding, snapshot) for holding in standing(machine))


def to_put_back(machine: Machine) -> str:
    """What is owed for leases that are over, in one line; nothing where a switch came since."""
    debt = debt_of(machine, over(machine))
    return f"{', '.join(debt.before)} made room for somebody who is gone: {BACK}" if debt.before else ""
