"""The planner: 50 services, and how time grows with their number (a switch that stops a half and starts the other)."""

from __future__ import annotations

from collections.abc import Iterable

from bench.measure import Row, median_s
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Plan, Policy, Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.planner import make_plan

QUIET = Policy(alternatives=False)


def measure() -> Iterable[Row]:
    base_s = 0.0
    for count in (10, 50, 100, 250, 500, 1000):
        scene = Scene(count)
        taken_s = median_s(scene.switch)
        if count == 50:
            base_s = taken_s
            yield Row(what="switch, 50 services", seconds=taken_s, aim="under 10 ms")
        elif count > 50:
            yield Row(
                what=f"switch, {count} services",
                seconds=taken_s,
                against=f"{count // 50} times 50 services",
                against_seconds=base_s * count / 50,
                aim="about 1: near-linear",
            )
        else:
            yield Row(what=f"switch, {count} services", seconds=taken_s)
    scene = Scene(50)
    switch_s = median_s(scene.switch)
    for what, action in (
        ("nothing to do, 50 services", scene.stay),
        ("turns (time-shared), 50 services", scene.take_turns),
        ("does not fit, 50 services", scene.too_much),
        ("does not fit, 50 services, with alternatives", scene.alternatives),
    ):
        repeats = 3 if action == scene.alternatives else 7
        yield Row(what=what, seconds=median_s(action, repeats), against="switch, 50 services", against_seconds=switch_s)


class Scene:
    """`count` services in chains of five, on cards that hold 8 of 10; the first half is up."""

    def __init__(self, count: int) -> None:
        ids = [f"s{n:04}" for n in range(count)]
        self.services = {
            service: Service(
                id=service,
                driver="fastapi",
                port=10_000 + n,
                vram_mb=1000 + n % 7 * 500,
                sleep_mode="l1",
                depends_on=(ids[n - 1],) if n % 5 else (),
                context_size=32_768,
                kv_cache_per_1k=10,
            )
            for n, service in enumerate(ids)
        }
        self.footprints = {
            service: Footprint(
                service=service,
                vram_mb=found.vram_mb,
                start_peak_mb=found.vram_mb + 300,
                asleep_mb=300,
                ram_asleep_mb=found.vram_mb,
                start_s=5 + n % 11,
                exclusive_start=n % 4 == 0,
            )
            for n, (service, found) in enumerate(self.services.items())
        }
        self.up, self.down = ids[: count // 2], ids[count // 2 :]
        whole_mb = sum(found.vram_mb for found in self.services.values())
        self.cards = max(1, whole_mb // 120_000)
        card_mb = 2000 + whole_mb * 8 // 10 // self.cards
        readings = {
            service: ServiceReading(
                service=service,
                state=State.RUNNING,
                vram_mb={n % self.cards: self.services[service].vram_mb},
                gpus=(n % self.cards,),
            )
            for n, service in enumerate(self.up)
        }
        used = [sum(reading.vram_mb.get(card, 0) for reading in readings.values()) for card in range(self.cards)]
        gpus = tuple(
            GpuReading(index=card, name="card", total_mb=card_mb, used_mb=mb, free_mb=card_mb - mb)
            for card, mb in enumerate(used)
        )
        ram_mb = 4_000_000
        self.snapshot = HostSnapshot(at=0.0, gpus=gpus, services=readings, ram_total_mb=ram_mb, ram_available_mb=ram_mb)

    def plan(self, ids: list[str], want: Want = Want.AWAKE, policy: Policy = QUIET) -> Plan:
        members = tuple(TargetMember(service=service, want=want) for service in ids)
        return make_plan(
            self.snapshot, Target(mode="m", members=members), self.services, self.footprints, policy=policy
        )

    def switch(self) -> Plan:
        return self.plan(self.down)

    def stay(self) -> Plan:
        return self.plan(self.up)

    def take_turns(self) -> Plan:
        return self.plan(self.down, Want.TIME_SHARED)

    def too_much(self) -> Plan:
        return self.plan([*self.up, *self.down])

    def alternatives(self) -> Plan:
        return self.plan([*self.up, *self.down], policy=Policy())
