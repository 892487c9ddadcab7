"""Making room: enough, cheaply, by sleep before stop, and never by what is pinned, adopted or leased."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.domain.errors import DoesNotFit, UnknownName
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuProcess, GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Lease, Policy, Target
from gpumod.domain.service import Service
from gpumod.domain.states import Action, State
from gpumod.planner import Room, make_plan, make_room
from gpumod.planner.goals import protected
from gpumod.planner.world import World
from gpumod.testing.strategies import Scene, scenes

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
POLICY = Policy(reserve_mb=512)
TOTAL_MB = 24_564


def service(name: str, vram_mb: int, **more: object) -> Service:
    return Service.model_validate({"id": name, "driver": "d", "vram_mb": vram_mb, "sleep_mode": "l1", **more})


def running(*services: Service, foreign_mb: int = 0, state: State = State.RUNNING) -> HostSnapshot:
    found = {
        s.id: ServiceReading(service=s.id, state=state, vram_mb={0: s.vram_mb}, gpus=(0,), launched=s) for s in services
    }
    used = foreign_mb + sum(s.vram_mb for s in services)
    gpu = GpuReading(index=0, name="card", total_mb=TOTAL_MB, used_mb=used, free_mb=TOTAL_MB - used)
    game = (GpuProcess(pid=7, name="game", gpu=0, vram_mb=foreign_mb),) if foreign_mb else ()
    return HostSnapshot(at=0, gpus=(gpu,), processes=game, services=found, ram_total_mb=64_000, ram_available_mb=64_000)


def room(snapshot: HostSnapshot, mb: int, *services: Service, **more: object) -> Room:
    known = {s.id: s for s in services}
    prints = {
        s.id: Footprint(service=s.id, vram_mb=s.vram_mb, start_peak_mb=s.vram_mb, asleep_mb=s.asleep_mb or 0)
        for s in services
    }
    return make_room(snapshot, known, prints, mb, policy=POLICY, **more)  # type: ignore[arg-type]  # options by name


def acts(found: Room) -> set[tuple[str, str]]:
    return {(s.action.value, s.service) for s in found.plan.steps if s.action is not Action.VERIFY}


BIG = service("big", 12_000)
SMALL = service("small", 4_000)
STIFF = service("stiff", 6_000, sleep_mode="none")


@pytest.mark.parametrize(
    ("mb", "expected"),
    [
        (2_000, set()),
        (5_000, {("sleep", "small")}),
        (9_000, {("sleep", "big")}),
        (17_000, {("sleep", "big"), ("sleep", "small")}),
        (20_000, {("sleep", "big"), ("stop", "stiff")}),
        (24_052, {("sleep", "big"), ("sleep", "small"), ("stop", "stiff")}),
    ],
)
def test_the_cheapest_go_and_sleep_comes_before_stop(mb: int, expected: set[tuple[str, str]]) -> None:
    services = (BIG, SMALL, STIFF)
    assert acts(room(running(*services), mb, *services)) == expected


def test_where_others_hold_more_than_there_is_no_number_is_below_nothing() -> None:
    with pytest.raises(DoesNotFit) as refused:
        room(running(foreign_mb=24_300), 1_000)
    assert refused.value.info.message == "GPU 0 can give at most 0 of 1000 MiB: 1248 MiB are missing"
    target = Target(members=({"service": "big"},))
    plan = make_plan(
        running(foreign_mb=24_300),
        target,
        {"big": BIG},
        {"big": Footprint(service="big", vram_mb=12_000, start_peak_mb=12_000, asleep_mb=0)},
        policy=POLICY,
    )
    assert "it has: what others hold, leases and the reserve are 248 MiB more than the whole card" in plan.why


def test_a_residue_is_counted() -> None:
    napper = service("napper", 20_000, asleep_mb=2_000)
    assert acts(room(running(napper), 22_000, napper)) == {("sleep", "napper")}
    assert acts(room(running(napper), 22_100, napper)) == {("stop", "napper")}


def test_what_depends_on_what_goes_goes_too() -> None:
    base, web = service("base", 20_000, sleep_mode="none"), service("web", 100, depends_on=["base"])
    assert acts(room(running(base, web), 20_000, base, web)) == {("stop", "web"), ("stop", "base")}
    base = service("base", 20_000)
    assert acts(room(running(base, web), 20_000, base, web)) == {("sleep", "web"), ("sleep", "base")}


def test_what_stays_is_named_with_what_is_missing() -> None:
    pinned, web = service("pinned", 8_000, pinned=True, depends_on=["web"]), service("web", 1_000)
    lease = Lease(id="1", holder="ann", gpu=0, vram_mb=3_000)
    with pytest.raises(DoesNotFit) as caught:
        room(running(pinned, web, SMALL, foreign_mb=2_000), 12_000, pinned, web, SMALL, leases=(lease,))
    info = caught.value.info
    assert info.message == "GPU 0 can give at most 10052 of 12000 MiB: 1948 MiB are missing"
    assert info.details["exceeds_by_mb"] == 1948
    for named in ("pinned 8000 (pinned)", "web 1000 (pinned needs it)", "game (pid 7) 2000", "ann 3000", "reserve 512"):
        assert named in info.why
    forced = room(
        running(pinned, web, SMALL, foreign_mb=2_000), 12_000, pinned, web, SMALL, leases=(lease,), force=True
    )
    assert acts(forced) == {("stop", "small")}


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UnknownName, match="there is no GPU 3"):
        room(running(SMALL), 100, SMALL, gpu=3)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(scene=scenes(), mb=st.integers(1, 20_000), leased_mb=st.sampled_from([0, 0, 2_000]))
def test_the_room_is_there_or_could_not_be(scene: Scene, mb: int, leased_mb: int) -> None:
    leases = (Lease(id="1", holder="ann", gpu=0, vram_mb=leased_mb),) if leased_mb else ()
    world = World(scene.snapshot, scene.services, scene.footprints, leases, scene.policy)
    kept = protected(world, Target())
    room_mb = {gpu: world.budgets[gpu] - sum(world.now(s).get(gpu, 0) for s in kept) for gpu in world.gpus}
    if max(room_mb.values()) < mb:  # though all that may go were gone
        with pytest.raises(DoesNotFit):
            make_room(scene.snapshot, scene.services, scene.footprints, mb, leases=leases, policy=scene.policy)
        return
    found = make_room(scene.snapshot, scene.services, scene.footprints, mb, leases=leases, policy=scene.policy)
    row = next(row for row in found.plan.gpus if row.index == found.gpu)
    assert row.after_mb + mb <= world.budgets[found.gpu]
    assert not {step.service for step in found.plan.steps} & kept.keys()
    assert {step.action for step in found.plan.steps} <= {Action.SLEEP, Action.STOP, Action.VERIFY}
    wanted = Lease(id="2", holder="bob", gpu=found.gpu, vram_mb=mb)
    policy = scene.policy.model_copy(update={"cascade": True})
    again = make_plan(
        scene.snapshot, found.target, scene.services, scene.footprints, leases=(*leases, wanted), policy=policy
    )
    assert again.fits
    assert again.steps == found.plan.steps


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), mb=st.integers(1, 24_000))
def test_nothing_is_stopped_where_sleep_suffices_and_no_member_of_the_choice_is_idle(sizes: list[int], mb: int) -> None:
    services = [service(f"s{n}", size * 100) for n, size in enumerate(sizes)]
    found = room(running(*services), mb, *services)
    asleep = {m.service for m in found.target.members if m.want is Want.ASLEEP}
    assert found.target.stop == ()
    free_mb = TOTAL_MB - 512 - sum(s.vram_mb for s in services)
    gains = [s.vram_mb for s in services if s.id in asleep]
    assert free_mb + sum(gains) >= mb
    assert not gains or free_mb + sum(gains) - min(gains) < mb
