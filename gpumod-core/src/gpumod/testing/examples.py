"""Builders for plans by example: a 24 GB card, a few services, and readings, targets and plans in one line each."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Lease, Plan, Policy, Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.planner import make_plan

QUIET = Policy(alternatives=False)


def service(id_: str, vram_mb: int, port: int, **more: object) -> Service:
    """A service of the kind that takes memory and nothing else."""
    return Service.model_validate({"id": id_, "driver": "fastapi", "vram_mb": vram_mb, "port": port, **more})


SERVICES = {
    found.id: found
    for found in (
        service("embedding-code", 2500, 8001),
        service("glm-code", 19100, 8002, sleep_mode="l1", context_size=32768, kv_cache_per_1k=170),
        service("embedding", 4000, 8003),
        service("hyde", 5000, 8004, sleep_mode="l1", asleep_mb=600, depends_on=["embedding"]),
        service("reranker", 6000, 8005, sleep_mode="l1", asleep_mb=700),
        service("chat", 7000, 8006, sleep_mode="l1", asleep_mb=800),
        service("tool", 100, 8007),
        service("router", 0, 8008),
        service("member", 3000, 8009, host="router", sleep_mode="router"),
    )
}


def reading(id_: str, state: State, mb: int, **more: object) -> ServiceReading:
    """A service that is in `state` and holds `mb` MiB on GPU 0."""
    return ServiceReading.model_validate({"service": id_, "state": state, "vram_mb": {0: mb}, "gpus": (0,), **more})


def machine(
    *found: ServiceReading, totals: tuple[int, ...] = (24564,), foreign_mb: int = 0, ram_mb: int = 64_000
) -> HostSnapshot:
    """A machine with cards of `totals` MiB, on which `found` is up and `foreign_mb` MiB of GPU 0 are foreign."""
    gpus = []
    for i, total in enumerate(totals):
        used = (foreign_mb if i == 0 else 0) + sum(r.vram_mb.get(i, 0) for r in found)
        gpus.append(GpuReading(index=i, name="card", total_mb=total, used_mb=used, free_mb=total - used))
    services = {r.service: r for r in found}
    return HostSnapshot(at=0, gpus=tuple(gpus), services=services, ram_total_mb=ram_mb, ram_available_mb=ram_mb)


def want(*members: str | TargetMember, mode: str | None = "m", **more: object) -> Target:
    """A target of these members, all awake where they are named alone."""
    wanted = [TargetMember(service=m) if isinstance(m, str) else m for m in members]
    return Target.model_validate({"mode": mode, "members": wanted, **more})


def turns(*members: str) -> list[TargetMember]:
    """Members that take turns."""
    return [TargetMember(service=m, want=Want.TIME_SHARED) for m in members]


def asleep(member: str) -> TargetMember:
    """A member that is wanted asleep."""
    return TargetMember(service=member, want=Want.ASLEEP)


def plan(
    snapshot: HostSnapshot,
    target: Target,
    *,
    services: Mapping[str, Service] = SERVICES,
    footprints: Mapping[str, Footprint] | None = None,
    leases: tuple[Lease, ...] = (),
    policy: Policy = QUIET,
) -> Plan:
    """The plan, without looking for alternatives. Raises what :func:`gpumod.planner.make_plan` raises."""
    return make_plan(snapshot, target, services, footprints or {}, leases=leases, policy=policy)


def acts(made: Plan) -> list[tuple[str, str]]:
    """What the steps do, in order: (action, service)."""
    return [(step.action.value, step.service) for step in made.steps]
