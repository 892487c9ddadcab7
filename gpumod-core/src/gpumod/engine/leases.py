"""Leases: which of those that are stored still hold, and what each of them has left to take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Lease, Target
from gpumod.domain.run import Event
from gpumod.engine.machine import Machine
from gpumod.planner import target_of


def holds(machine: Machine, holding: Holding) -> bool:
    """True while its holder lives and its time is not over."""
    in_time = holding.until is None or machine.clock.now() < holding.until
    return in_time and machine.local.identity(holding.pid) == holding.identity


def standing(machine: Machine) -> tuple[Holding, ...]:
    """The leases that hold, the oldest first."""
    return tuple(holding for holding in machine.store.holdings() if holds(machine, holding))


def over(machine: Machine) -> tuple[Holding, ...]:
    """Those that no longer hold, and whose services were not put back yet."""
    return tuple(holding for holding in machine.store.holdings() if not holds(machine, holding))


def used_mb(machine: Machine, holding: Holding, snapshot: HostSnapshot) -> int:
    """What its holder has taken of it already: what its processes hold, where it has some and the driver tells.

    Else it is what others took since.
    """
    taken = snapshot.foreign_mb(holding.gpu) - holding.foreign_mb
    if holding.pid is not None:
        tree = set(machine.local.tree(holding.pid))
        mine = [p for p in snapshot.processes if p.pid in tree and p.gpu == holding.gpu and p.service is None]
        if snapshot.gpu(holding.gpu).per_process and all(p.vram_mb is not None for p in mine):
            taken = sum(p.vram_mb or 0 for p in mine)
    return max(0, min(holding.vram_mb, taken))


def counted(machine: Machine, snapshot: HostSnapshot, holdings: Sequence[Holding]) -> tuple[Lease, ...]:
    """Leases that hold, as the planner counts them: what was taken already is seen on the GPU.

    Of a card that cannot be used nothing can be had anyway.
    """
    known = {gpu.index for gpu in snapshot.gpus if gpu.fault is None}
    return tuple(
        Lease(
            id=holding.id,
            holder=holding.holder,
            gpu=holding.gpu,
            vram_mb=holding.vram_mb - used_mb(machine, holding, snapshot),
            until=holding.until,
        )
        for holding in holdings
        if holding.gpu in known
    )


def in_the_way(holdings: Sequence[Holding], target: Target, *, forced: bool, leads_to: str | None) -> tuple[str, ...]:
    """What leases mean for a plan, a line each: whose they are, and what mode `leads_to`, once reached, leaves away."""
    told = []
    wanted = {member.service for member in target.members}
    for holding in holdings:
        line = f"passed over: {in_words(holding)}" if forced else in_words(holding)
        owed = [m.service for m in target_of(holding.before, holding.definitions).members if m.service not in wanted]
        if owed and leads_to is not None:
            line += f"; what made room for it ({', '.join(owed)}) is not put back once mode {leads_to} is reached"
        told.append(line)
    return tuple(told)


def put_lease(machine: Machine, holding: Holding) -> None:
    """Store a lease that begins."""
    data = holding.model_dump(mode="json", include={"gpu", "vram_mb", "holder", "until"})
    machine.store.put_holding(
        holding, event=Event(at=machine.clock.now(), kind="leased", subject=holding.id, data=data)
    )


def drop_lease(machine: Machine, lease: str) -> None:
    """Forget a lease for which nothing is put away any more; one that is gone already is nothing to forget."""
    machine.store.delete_holding(lease, event=Event(at=machine.clock.now(), kind="lease-dropped", subject=lease))


def in_words(holding: Holding) -> str:
    """A lease in one line: how much, of what, who, until when."""
    ends = None if holding.until is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holding.until))
    until = f", until {ends}" if ends else ""
    return f"{holding.vram_mb} MiB of GPU {holding.gpu} are leased to {holding.holder}{until}"
