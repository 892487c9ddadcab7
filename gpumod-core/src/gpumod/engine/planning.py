"""Planning over ports: what a change wants, with the footprints that are known, as a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Plan, Policy, Target
from gpumod.domain.service import Service
from gpumod.engine.footprints import footprints, variants
from gpumod.engine.machine import Machine
from gpumod.planner import make_plan


@dataclass(frozen=True)
class Wanted:
    """What a change wants: the target, and the definitions to use (stored ones, with an alternative's changes)."""

    target: Target
    services: Mapping[str, Service]


@dataclass(frozen=True)
class Options:
    """How a change is done. `timeout_s` bounds each start."""

    force: bool = False
    rollback: bool = True
    cascade: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from."""

    plan: Plan
    services: Mapping[str, Service]
    footprints: Mapping[str, Footprint]
    snapshot: HostSnapshot


def plan_for(machine: Machine, snapshot: HostSnapshot, wanted: Wanted, options: Options) -> Planned:
    """Plan `wanted` from `snapshot`. Services that are up but no longer defined are known by what was launched."""
    services = {**launched(snapshot), **wanted.services}
    prints = footprints(machine, services, snapshot.gpus)
    policy = Policy(
        reserve_mb=machine.settings.reserve_mb,
        ram_reserve_mb=machine.settings.ram_reserve_mb,
        cascade=options.cascade,
    )
    offered = variants(machine, services)
    plan = make_plan(snapshot, wanted.target, services, prints, policy=policy, variants=offered)
    return Planned(plan, services, prints, snapshot)


def launched(snapshot: HostSnapshot) -> Mapping[str, Service]:
    """The definitions with which what is up was started."""
    return {r.service: r.launched for r in snapshot.services.values() if r.launched}
