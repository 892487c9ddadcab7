"""Hypothesis strategies: services with footprints, machines, targets, and whole scenes to plan in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st

from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.machine import GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Policy, Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import State


@dataclass(frozen=True)
class Scene:
    """A machine, what may run on it, and what is wanted."""

    snapshot: HostSnapshot
    services: Mapping[str, Service]
    footprints: Mapping[str, Footprint]
    target: Target
    policy: Policy


def sizes(high_mb: int, step_mb: int = 100) -> st.SearchStrategy[int]:
    """MiB from 0 to `high_mb`, in steps that shrink well."""
    return st.integers(0, high_mb // step_mb).map(lambda n: n * step_mb)


WEIGHTS = st.one_of(st.sampled_from([0, 1500, 3000, 4500, 6000, 9000]), sizes(9_000))
"""What a service takes awake: such that some sets fit the machines below and some do not."""


@st.composite
def service_sets(
    draw: st.DrawFn, gpus: int = 1, most: int = 6, *, pins: bool = True
) -> tuple[dict[str, Service], dict[str, Footprint]]:
    """Services `s0`, `s1`, ... that need only earlier ones, some of them hosts and members, and their footprints."""
    services: dict[str, Service] = {}
    footprints: dict[str, Footprint] = {}
    routers: list[str] = []
    for n in range(draw(st.integers(2, most))):
        service = f"s{n}"
        needs = draw(st.lists(st.sampled_from(sorted(services)), max_size=2, unique=True)) if services else []
        host = draw(st.sampled_from([None, *routers]))
        is_host = host is None and draw(st.integers(0, 4)) == 4
        level = (
            "none" if is_host else draw(st.sampled_from(["l1", "l1", "none"]) if host is None else st.just("router"))
        )
        vram_mb = 0 if is_host else draw(WEIGHTS)
        where = st.just("any") if host or is_host else st.one_of(st.just("any"), st.just("any"), gpu_sets(gpus))
        context = draw(st.sampled_from([None, 8192, 32768]))
        services[service] = Service(
            id=service,
            driver="fastapi",
            port=None if host else 8000 + n,
            vram_mb=vram_mb,
            sleep_mode=level,
            depends_on=tuple(need for need in needs if need != host),
            host=host,
            gpus=draw(where),
            context_size=context,
            kv_cache_per_1k=draw(st.sampled_from([50.0, 170.0])) if context else None,
            role=draw(st.sampled_from([None, "a", "b"])),
            pinned=pins and draw(st.integers(0, 9)) == 9,
        )
        if is_host:
            routers.append(service)
        footprints[service] = Footprint(
            service=service,
            vram_mb=vram_mb,
            start_peak_mb=vram_mb + draw(st.sampled_from([0, 0, 0, 1000, 3000])),
            asleep_mb=min(vram_mb, draw(sizes(1500))),
            ram_mb=draw(st.sampled_from([0, 0, 500])),
            ram_asleep_mb=draw(st.sampled_from([0, 2000, 9000])) if level == "l1" else 0,
            exclusive_start=draw(st.integers(0, 3)) == 3,
            equal_part=draw(st.booleans()),
            start_s=draw(st.sampled_from([None, 5.0, 20.0, 60.0])),
            stop_s=draw(st.sampled_from([None, 0.5, 10.0])),
            sleep_s=draw(st.sampled_from([None, 1.0])),
            wake_s=draw(st.sampled_from([None, 2.0])),
            sources={"vram_mb": draw(st.sampled_from([Source.MEASURED, Source.DECLARED, Source.EXPLICIT]))},
        )
    return services, footprints


def gpu_sets(gpus: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Some of the machine's GPU indices."""
    return st.lists(st.integers(0, gpus - 1), min_size=1, max_size=2, unique=True).map(tuple)


@st.composite
def targets(draw: st.DrawFn, services: Mapping[str, Service]) -> Target:
    """A mode over some of `services`, with start orders, sleepers and turns."""
    chosen = [service for service in sorted(services) if draw(st.integers(0, 2))]
    mixed = [Want.AWAKE, Want.AWAKE, Want.ASLEEP, Want.TIME_SHARED]
    wants = st.sampled_from(draw(st.sampled_from([mixed, [Want.AWAKE], [Want.AWAKE, *[Want.TIME_SHARED] * 3]])))
    members = tuple(
        TargetMember(service=service, want=draw(wants), start_order=draw(st.sampled_from([0, 0, 0, 1, 2])))
        for service in chosen
    )
    restart = tuple(service for service in chosen if draw(st.integers(0, 9)) == 9)
    return Target(mode="m", members=members, stop_others=draw(st.integers(0, 4)) < 4, restart=restart)


def empty_machine(totals: tuple[int, ...], ram_mb: int, foreign_mb: int = 0) -> HostSnapshot:
    """A machine on which nothing of ours runs."""
    gpus = tuple(
        GpuReading(index=i, name=f"gpu{i}", total_mb=total, used_mb=foreign_mb, free_mb=total - foreign_mb)
        for i, total in enumerate(totals)
    )
    return HostSnapshot(at=0.0, gpus=gpus, ram_total_mb=ram_mb, ram_available_mb=ram_mb)


@st.composite
def machines(draw: st.DrawFn, gpus: int | None = None) -> HostSnapshot:
    """An empty machine of one to three GPUs, sometimes with a foreign process, sometimes with little host RAM."""
    count = gpus or draw(st.sampled_from([1, 1, 1, 2, 3]))
    totals = tuple(draw(st.sampled_from([8_192, 12_288, 16_384, 24_564])) for _ in range(count))
    return empty_machine(
        totals, draw(st.sampled_from([8_000, 14_000, 64_000])), draw(st.sampled_from([0, 0, 900, 5000]))
    )


STATES = [State.STOPPED, State.STOPPED, State.RUNNING, State.RUNNING, State.SLEEPING, State.UNHEALTHY, State.STARTING,
          State.FAILED, State.UNKNOWN]  # fmt: skip


@st.composite
def readings(draw: st.DrawFn, service: Service, foot: Footprint, gpus: int) -> ServiceReading:
    """A service in any state, holding about what it should."""
    states = [state for state in STATES if state is not State.SLEEPING or service.supports_sleep]
    state = draw(st.sampled_from(states))
    if state in (State.STOPPED, State.FAILED):
        return ServiceReading(service=service.id, state=state)
    seat = service.gpus if service.gpus != "any" else (draw(st.integers(0, gpus - 1)),)
    level_mb = {State.RUNNING: foot.vram_mb, State.SLEEPING: foot.asleep_mb}.get(state, foot.start_peak_mb)
    level_mb = max(0, level_mb + draw(st.sampled_from([0, 0, -300, 250])))
    vram_mb = {gpu: -(-level_mb // len(seat)) for gpu in seat}
    return ServiceReading(service=service.id, state=state, vram_mb=vram_mb, gpus=seat, launched=service)


def occupied(machine: HostSnapshot, readings: Mapping[str, ServiceReading]) -> HostSnapshot:
    """`machine` with these services on it, beside whatever else it holds."""
    gpus = []
    for gpu in machine.gpus:
        used = machine.foreign_mb(gpu.index) + sum(reading.vram_mb.get(gpu.index, 0) for reading in readings.values())
        gpus.append(gpu.model_copy(update={"used_mb": used, "free_mb": max(0, gpu.total_mb - used)}))
    return machine.model_copy(update={"gpus": tuple(gpus), "services": dict(readings)})


@st.composite
def scenes(draw: st.DrawFn, *, empty: bool = False, most: int = 6, pins: bool = True) -> Scene:
    """A whole scene. With `empty` nothing runs yet, else mostly every service is in any state."""
    machine = draw(machines())
    count = len(machine.gpus)
    services, footprints = draw(service_sets(count, most, pins=pins))
    if not empty and draw(st.integers(0, 2)):
        found = {service: draw(readings(services[service], footprints[service], count)) for service in services}
        machine = occupied(machine, found)
    policy = Policy(alternatives=False, cascade=draw(st.booleans()))
    return Scene(machine, services, footprints, draw(targets(services)), policy)
