"""Leases: which of those that are stored still hold, and what each of them has left to take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


def used_mb(machine: Machine, snapshot: HostSnapshot, holdings: Sequence[Holding]) -> Mapping[str, int]:
    """What the holders of these leases (the oldest first) have taken of them already, by lease: no MiB counts twice.

    Where the driver tells what a holder's processes hold, that is it. What else others took since goes to the leases of
    which nothing is told, the oldest first: to nobody's lease all of it, to a process's only what nobody is named for
    and what containers took, since a holder's container is none of its processes. A game is no holder's.
    """
    used: dict[str, int] = {}
    for gpu in sorted({holding.gpu for holding in holdings}):
        theirs = _theirs(machine, snapshot, gpu, machine.store.holdings())
        all_mb = snapshot.foreign_mb(gpu) - theirs.all_mb
        unnamed_mb = all_mb - theirs.strangers_mb
        shared_out_mb = before_mb = 0  # so much of all, and of the unnamed, was there before, or is an older lease's
        for holding in [h for h in holdings if h.gpu == gpu]:
            taken = theirs.by_lease.get(holding.id)
            if taken is None and holding.pid is None:
                shared_out_mb = max(shared_out_mb, holding.foreign_mb)
                taken = max(0, min(holding.vram_mb, all_mb - shared_out_mb))
                shared_out_mb += taken
            elif taken is None:
                before_mb = max(before_mb, holding.foreign_mb)
                taken = max(0, min(holding.vram_mb, unnamed_mb - before_mb, all_mb - shared_out_mb))
                shared_out_mb, before_mb = shared_out_mb + taken, before_mb + taken
            used[holding.id] = taken
    return used


def beside_leases_mb(machine: Machine, snapshot: HostSnapshot, holding: Holding) -> int:
    """What others hold on the GPU of a lease that begins, as far as it could be its holder's later; without what its
    holder, and those of others, hold there."""
    theirs = _theirs(machine, snapshot, holding.gpu, (*machine.store.holdings(), holding))
    all_mb = snapshot.foreign_mb(holding.gpu) - theirs.all_mb
    return all_mb if holding.pid is None else all_mb - theirs.strangers_mb


class _Theirs(NamedTuple):
    """MiB of leases that their holders' own processes hold, by lease (without those of which none is told), what these
    processes hold in all, and what other foreign processes do that are in no container."""

    by_lease: Mapping[str, int]
    all_mb: int
    strangers_mb: int


def _theirs(machine: Machine, snapshot: HostSnapshot, gpu: int, holdings: Sequence[Holding]) -> _Theirs:
    """No process counts twice: where several leases have it, by one holder or one below another, the youngest of those
    that hold does."""
    if not snapshot.gpu(gpu).per_process:
        return _Theirs({}, 0, 0)
    told = {p.pid: p.vram_mb for p in snapshot.processes if p.gpu == gpu and p.service is None}
    left = {pid: mb for pid, mb in told.items() if mb is not None}
    by_lease: dict[str, int] = {}
    seen: set[int] = set()
    youngest_first = list(reversed(holdings))
    for holding in sorted(youngest_first, key=lambda one: not holds(machine, one)):
        if holding.gpu != gpu or holding.pid is None or machine.local.identity(holding.pid) != holding.identity:
            continue
        mine = [pid for pid in machine.local.tree(holding.pid) if pid in told]
        if not mine or any(told[pid] is None for pid in mine):
            continue
        by_lease[holding.id] = 0
        for pid in mine:
            taken = min(left[pid], holding.vram_mb - by_lease[holding.id])
            left[pid] -= taken
            by_lease[holding.id] += taken
        seen.update(mine)
    strangers = [pid for pid in told.keys() - seen if not machine.local.contained(pid)]
    return _Theirs(by_lease, sum(told[pid] or 0 for pid in seen), sum(told[pid] or 0 for pid in strangers))


def counted(machine: Machine, snapshot: HostSnapshot, holdings: Sequence[Holding]) -> tuple[Lease, ...]:
    """Leases that hold, as the planner counts them: what was taken already is seen on the GPU.

    Of a card that cannot be used nothing can be had anyway.
    """
    known = {gpu.index for gpu in snapshot.gpus if gpu.fault is None}
    held = [holding for holding in holdings if holding.gpu in known]
    used = used_mb(machine, snapshot, held)
    return tuple(
        Lease(
            id=holding.id,
            holder=holding.holder,
            gpu=holding.gpu,
            vram_mb=holding.vram_mb - used[holding.id],
            until=holding.until,
        )
        for holding in held
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
