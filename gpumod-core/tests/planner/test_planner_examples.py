"""Plans for a 24 GB card, by example."""

from __future__ import annotations

import pytest

from gpumod.domain.errors import Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Lease, Plan, Policy, Target, TargetMember, VerdictKind
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.planner import make_plan, target_of


def service(id_: str, vram_mb: int, port: int, **more: object) -> Service:
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
    return ServiceReading.model_validate({"service": id_, "state": state, "vram_mb": {0: mb}, "gpus": (0,), **more})


def machine(
    *found: ServiceReading, totals: tuple[int, ...] = (24564,), foreign_mb: int = 0, ram_mb: int = 64_000
) -> HostSnapshot:
    gpus = []
    for i, total in enumerate(totals):
        used = (foreign_mb if i == 0 else 0) + sum(r.vram_mb.get(i, 0) for r in found)
        gpus.append(GpuReading(index=i, name="card", total_mb=total, used_mb=used, free_mb=total - used))
    services = {r.service: r for r in found}
    return HostSnapshot(at=0, gpus=tuple(gpus), services=services, ram_total_mb=ram_mb, ram_available_mb=ram_mb)


def want(*members: str | TargetMember, mode: str | None = "m", **more: object) -> Target:
    wanted = [TargetMember(service=m) if isinstance(m, str) else m for m in members]
    return Target.model_validate({"mode": mode, "members": wanted, **more})


def turns(*members: str) -> list[TargetMember]:
    return [TargetMember(service=m, want=Want.TIME_SHARED) for m in members]


def asleep(member: str) -> TargetMember:
    return TargetMember(service=member, want=Want.ASLEEP)


def plan(
    snapshot: HostSnapshot,
    target: Target,
    *,
    services: dict[str, Service] = SERVICES,
    footprints: dict[str, Footprint] | None = None,
    leases: tuple[Lease, ...] = (),
    policy: Policy = Policy(alternatives=False),  # noqa: B008
) -> Plan:
    return make_plan(snapshot, target, services, footprints or {}, leases=leases, policy=policy)


def acts(made: Plan) -> list[tuple[str, str]]:
    return [(step.action.value, step.service) for step in made.steps]


def test_code_and_reranker_miss_the_card_by_3548_mib() -> None:
    made = plan(machine(), want("embedding-code", "glm-code", "reranker"))
    assert made.verdict is VerdictKind.DOES_NOT_FIT
    assert (made.gpus[0].peak_mb, made.gpus[0].budget_mb, made.exceeds_by_mb) == (27600, 24052, 3548)
    assert "GPU 0" in made.why
    assert "3548" in made.why
    assert "glm-code" in made.why
    assert len(made.steps) == 4, "the steps are whole, so that they can be forced"


def test_rag_without_residue_has_the_published_peaks() -> None:
    bare = {k: s.model_copy(update={"asleep_mb": None}) for k, s in SERVICES.items()}
    target = want("embedding-code", "embedding", *turns("hyde", "reranker", "chat"), mode="rag")
    made = plan(machine(), target, services=bare)
    assert made.verdict is VerdictKind.FITS_TIME_SHARED
    assert made.gpus[0].after_mb == 6500
    assert {turn.service: turn.peak_mb for turn in made.turns} == {"hyde": 11500, "reranker": 12500, "chat": 13500}


def test_rag_counts_what_the_other_sleepers_keep() -> None:
    target = want("embedding-code", "embedding", *turns("hyde", "reranker", "chat"), mode="rag")
    made = plan(machine(), target)
    assert {t.service: t.residue_mb for t in made.turns} == {"hyde": 1500, "reranker": 1400, "chat": 1300}
    assert {t.service: t.peak_mb for t in made.turns} == {"hyde": 13000, "reranker": 13900, "chat": 14800}
    assert plan(machine(totals=(12000,)), target).verdict is VerdictKind.DOES_NOT_FIT
    assert plan(machine(totals=(32768,)), target).verdict is VerdictKind.FITS_TIME_SHARED


def test_a_stop_makes_room_and_the_start_waits_for_it() -> None:
    made = plan(machine(reading("glm-code", State.RUNNING, 19100)), want("chat"))
    stop, start, verify = made.steps
    assert acts(made) == [("stop", "glm-code"), ("start", "chat"), ("verify", "*")]
    assert start.waits_for == (stop.n,)
    assert verify.waits_for == (start.n,)
    assert stop.why == "not in mode m"
    assert start.why == "wanted by mode m"
    assert (start.gpus[0].before_mb, start.gpus[0].peak_mb, start.gpus[0].after_mb) == (0, 7000, 7000)
    assert made.gpus[0].peak_mb == 19100


def test_what_fits_beside_does_not_wait() -> None:
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want("embedding"))
    assert made.steps[0].waits_for == ()
    assert made.steps[1].waits_for == ()
    assert made.gpus[0].peak_mb == 11000


def test_what_is_there_is_kept_and_a_sleeper_wakes() -> None:
    found = machine(reading("embedding", State.RUNNING, 4000), reading("chat", State.SLEEPING, 800))
    made = plan(found, want("embedding", "chat"))
    assert acts(made) == [("wake", "chat"), ("verify", "*")]
    assert (made.steps[0].takes_mb, made.steps[0].gives_mb) == ({0: 6200}, {0: 0})
    assert plan(found, want("embedding", asleep("chat"))).verdict is VerdictKind.NOTHING_TO_DO


def test_a_running_service_that_is_wanted_asleep_sleeps_and_a_stopped_one_is_started_first() -> None:
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want(asleep("chat"), asleep("reranker")))
    assert acts(made) == [("sleep", "chat"), ("start", "reranker"), ("sleep", "reranker"), ("verify", "*")]
    assert made.steps[0].level == "l1"
    assert made.gpus[0].after_mb == 1500


def test_a_service_that_cannot_sleep_is_stopped_when_wanted_asleep() -> None:
    made = plan(machine(reading("tool", State.RUNNING, 100)), want(asleep("tool")))
    assert acts(made) == [("stop", "tool"), ("verify", "*")]
    assert plan(machine(), want(asleep("tool"))).verdict is VerdictKind.NOTHING_TO_DO


@pytest.mark.parametrize("state", [State.UNHEALTHY, State.STARTING, State.UNKNOWN, State.STOPPING])
def test_what_does_not_serve_is_stopped_and_started(state: State) -> None:
    made = plan(machine(reading("chat", state, 5000)), want("chat"))
    assert acts(made) == [("stop", "chat"), ("start", "chat"), ("verify", "*")]
    assert made.steps[0].why == f"is {state.value}"
    assert acts(plan(machine(reading("chat", state, 5000)), want())) == [("stop", "chat"), ("verify", "*")]


def test_a_service_that_is_still_starting_counts_with_its_peak() -> None:
    found = machine(reading("glm-code", State.STARTING, 300, adopted=True))
    assert plan(found, want("chat")).exceeds_by_mb == 19100 + 7000 - 24052


def test_needs_come_first_and_say_why() -> None:
    made = plan(machine(), want("hyde"))
    assert acts(made) == [("start", "embedding"), ("start", "hyde"), ("verify", "*")]
    assert made.steps[0].why == "needed by hyde"
    assert made.steps[1].waits_for == (1,)


def test_stops_go_in_reverse() -> None:
    made = plan(machine(reading("embedding", State.RUNNING, 4000), reading("hyde", State.RUNNING, 5000)), want())
    assert acts(made)[:2] == [("stop", "hyde"), ("stop", "embedding")]
    assert made.steps[1].waits_for == (1,)


def test_a_host_comes_and_goes_with_its_members() -> None:
    made = plan(machine(), want("member"))
    assert acts(made)[:2] == [("start", "router"), ("start", "member")]
    up = machine(reading("router", State.RUNNING, 0), reading("member", State.RUNNING, 3000))
    assert acts(plan(up, want("tool")))[:2] == [("stop", "member"), ("start", "tool")]
    alone = plan(up, want(mode=None, stop_others=False, stop=("member",)))
    assert acts(alone) == [("stop", "member"), ("stop", "router"), ("verify", "*")]
    again = plan(up, want("member", restart=("router",)))
    assert acts(again)[:4] == [("stop", "member"), ("stop", "router"), ("start", "router"), ("start", "member")]


def test_a_restart_keeps_what_is_wanted_and_starts_nothing_that_was_down() -> None:
    sleeping = machine(reading("embedding", State.SLEEPING, 0), reading("chat", State.SLEEPING, 800))
    made = plan(sleeping, want("hyde", restart=("embedding", "tool")))
    assert acts(made)[-4:] == [("stop", "embedding"), ("start", "embedding"), ("start", "hyde"), ("verify", "*")]
    alone = plan(sleeping, want(mode=None, stop_others=False, restart=("chat",)))
    assert acts(alone) == [("stop", "chat"), ("start", "chat"), ("sleep", "chat"), ("verify", "*")]


def test_start_order_waits_for_all_of_the_lower() -> None:
    late = TargetMember(service="tool", start_order=1)
    made = plan(machine(), want("embedding", "chat", late))
    tool = next(step for step in made.steps if step.service == "tool")
    assert len(tool.waits_for) == 2


def test_a_need_is_not_later_than_who_needs_it() -> None:
    made = plan(machine(), want("hyde", TargetMember(service="embedding", start_order=9)))
    assert acts(made)[:2] == [("start", "embedding"), ("start", "hyde")]


def test_pinned_adopted_and_leased_services_are_kept_and_counted() -> None:
    pinned = SERVICES | {"chat": SERVICES["chat"].model_copy(update={"pinned": True})}
    found = machine(reading("chat", State.RUNNING, 7000), reading("reranker", State.RUNNING, 6000, adopted=True))
    lease = Lease(id="1", holder="a game", service="embedding")
    found = machine(*found.services.values(), reading("embedding", State.RUNNING, 4000))
    made = plan(found, want(), services=pinned, leases=(lease,))
    assert made.verdict is VerdictKind.NOTHING_TO_DO
    assert {row.id for row in made.services if row.wanted == "kept"} == {"chat", "reranker", "embedding"}
    assert "embedding stays up: held by a game" in made.notes
    assert plan(found, want("glm-code"), services=pinned, leases=(lease,)).verdict is VerdictKind.DOES_NOT_FIT


def test_what_a_pinned_service_needs_is_kept_too() -> None:
    pinned = SERVICES | {"hyde": SERVICES["hyde"].model_copy(update={"pinned": True})}
    found = machine(reading("embedding", State.RUNNING, 4000), reading("hyde", State.RUNNING, 5000))
    made = plan(found, want(), services=pinned)
    assert made.steps == ()
    assert "embedding stays up: hyde needs it" in made.notes


def test_leased_and_foreign_memory_lower_the_budget() -> None:
    made = plan(machine(foreign_mb=1000), want("glm-code"), leases=(Lease(id="1", holder="job", gpu=0, vram_mb=2000),))
    assert (made.gpus[0].budget_mb, made.gpus[0].foreign_mb) == (24564 - 512 - 1000 - 2000, 1000)
    assert made.fits


def test_when_a_foreign_process_grew_releasing_fits_and_starting_does_not() -> None:
    found = machine(reading("glm-code", State.RUNNING, 19100), reading("tool", State.RUNNING, 100), foreign_mb=5000)
    assert found.gpus[0].used_mb > 24052
    assert plan(found, want("tool")).fits
    made = plan(found, want("tool", "glm-code", "embedding-code"))
    assert made.exceeds_by_mb == 19200 + 2500 - (24052 - 5000)


def test_who_starts_after_a_debt_waits_for_all_who_paid_it() -> None:
    found = machine(reading("chat", State.RUNNING, 7000), reading("reranker", State.RUNNING, 6000), foreign_mb=14000)
    made = plan(found, want("tool"))
    tool = next(step for step in made.steps if step.service == "tool")
    stops = {step.n for step in made.steps if step.action == "stop"}
    assert made.fits
    assert len(stops & set(tool.waits_for)) >= 1
    paid = sum(step.gives_mb[0] for step in made.steps if step.n in tool.waits_for)
    assert 13000 - paid + 100 <= made.gpus[0].budget_mb


def test_an_exclusive_start_runs_alone_on_its_gpu() -> None:
    foot = Footprint(service="chat", vram_mb=7000, start_peak_mb=7000, exclusive_start=True, start_s=100)
    made = plan(machine(), want("chat", "tool", "embedding"), footprints={"chat": foot})
    chat = next(step for step in made.steps if step.service == "chat")
    assert chat.exclusive
    for step in made.steps:
        if step.service in ("tool", "embedding"):
            assert chat.n in step.waits_for or step.n in chat.waits_for


def test_two_gpus_first_fit_and_spanning() -> None:
    span = SERVICES | {"chat": SERVICES["chat"].model_copy(update={"gpus": (0, 1)})}
    made = plan(machine(totals=(24564, 24564)), want("glm-code", "reranker", "chat"), services=span)
    placed = {step.service: step.placed_on for step in made.steps if step.action == "start"}
    assert placed == {"glm-code": (0,), "reranker": (1,), "chat": (0, 1)}
    assert [gpu.after_mb for gpu in made.gpus] == [22600, 9500]
    fixed = plan(machine(totals=(24564, 24564)), want(TargetMember(service="tool", gpus=(1,))))
    assert fixed.steps[0].placed_on == (1,)


def test_a_service_moves_when_the_target_says_where() -> None:
    found = machine(reading("chat", State.RUNNING, 7000), totals=(24564, 24564))
    made = plan(found, want(TargetMember(service="chat", gpus=(1,))))
    assert acts(made)[:2] == [("stop", "chat"), ("start", "chat")]
    assert made.steps[0].why == "moves to GPU 1"
    assert [gpu.after_mb for gpu in made.gpus] == [0, 7000]


def test_without_host_ram_a_sleeper_is_stopped_and_numbers_say_why() -> None:
    foot = Footprint(service="chat", vram_mb=7000, start_peak_mb=7000, asleep_mb=800, ram_asleep_mb=7000)
    found = machine(reading("chat", State.RUNNING, 7000), ram_mb=5000)
    made = plan(found, want(asleep("chat")), footprints={"chat": foot})
    assert acts(made)[0] == ("stop", "chat")
    assert "7000 MiB of host RAM" in made.notes[0]
    assert "3976 MiB" in made.notes[0]
    enough = plan(machine(reading("chat", State.RUNNING, 7000)), want(asleep("chat")), footprints={"chat": foot})
    assert acts(enough)[0] == ("sleep", "chat")
    assert enough.steps[0].ram is not None
    assert (enough.steps[0].ram.before_mb, enough.steps[0].ram.peak_mb, enough.steps[0].ram.after_mb) == (0, 7000, 7000)
    assert enough.ram_peak_mb == 7000


def test_a_narrow_way_restarts_what_stands_in_it() -> None:
    feet = {"reranker": Footprint(service="reranker", vram_mb=6000, start_peak_mb=20000)}
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want("chat", "reranker"), footprints=feet)
    assert made.fits
    assert acts(made)[:3] == [("stop", "chat"), ("start", "reranker"), ("start", "chat")]
    assert made.gpus[0].peak_mb <= made.gpus[0].budget_mb
    assert "chat restarts" in made.notes[0]


def test_one_port_is_given_up_before_it_is_taken() -> None:
    same = SERVICES | {"other": service("other", 100, 8006)}
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want("other"), services=same)
    assert made.steps[1].waits_for == (1,)


def test_times_come_from_footprints_and_make_the_plan_s_time() -> None:
    feet = {
        "embedding": Footprint(service="embedding", vram_mb=4000, start_peak_mb=4000, start_s=5),
        "hyde": Footprint(service="hyde", vram_mb=5000, start_peak_mb=5000, start_s=7),
    }
    made = plan(machine(), want("hyde"), footprints=feet)
    assert [step.starts_at_s for step in made.steps] == [0, 5, 12]
    assert made.expected_s == pytest.approx(12.5)


def test_the_id_is_stable_under_jitter_and_changes_with_definitions() -> None:
    found = machine(reading("glm-code", State.RUNNING, 19100))
    shaky = machine(reading("glm-code", State.RUNNING, 19133), foreign_mb=12)
    one = plan(found, want("chat"))
    assert plan(shaky, want("chat")).id == one.id
    feet = {"chat": Footprint(service="chat", vram_mb=7100, start_peak_mb=7100, start_s=3)}
    assert plan(found, want("chat"), footprints=feet).id == one.id
    edited = SERVICES | {"chat": SERVICES["chat"].model_copy(update={"unit_vars": {"x": 1}})}
    assert plan(found, want("chat"), services=edited).id != one.id
    assert plan(found, want("reranker")).id != one.id


def test_a_plan_is_plain_data() -> None:
    made = plan(machine(), want("chat"))
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_no_service_no_gpu() -> None:
    nothing = machine(totals=())
    assert plan(nothing, want("router")).fits
    with pytest.raises(GpumodError) as caught:
        plan(nothing, want("chat"))
    assert caught.value.code == "no-gpu"


@pytest.mark.parametrize(
    ("target", "error", "code", "names"),
    [
        (want("nope"), UnknownName, "unknown-service", ["nope"]),
        (want("lost"), UnknownName, "unknown-dependency", ["lost", "gone"]),
        (want("a"), UsageError, "dependency-cycle", ["a -> b -> c -> a"]),
        (want("chat", "twin"), UsageError, "port-conflict", ["chat", "twin", "8006"]),
        (want(TargetMember(service="chat", gpus=(7,))), UsageError, "unknown-gpu", ["chat", "7"]),
        (want("chat", stop=("chat",)), UsageError, "wanted-and-stopped", ["chat"]),
        (want(stop=("nope",)), UnknownName, "unknown-service", ["nope"]),
        (want(mode=None, stop_others=False, stop=("embedding",)), Failed, "has-dependents", ["embedding", "hyde"]),
        (want(mode=None, stop_others=False, restart=("embedding",)), Failed, "has-dependents", ["hyde"]),
        (want(stop=("chat",)), Failed, "leased", ["chat"]),
        (want("chat", restart=("chat",)), Failed, "leased", ["chat"]),
    ],
)
def test_refusals_name_what_is_wrong(target: Target, error: type[GpumodError], code: str, names: list[str]) -> None:
    odd = SERVICES | {
        "lost": service("lost", 1, 9001, depends_on=["gone"]),
        "a": service("a", 1, 9002, depends_on=["b"]),
        "b": service("b", 1, 9003, depends_on=["c"]),
        "c": service("c", 1, 9004, depends_on=["a"]),
        "twin": service("twin", 1, 8006),
    }
    found = machine(
        reading("embedding", State.RUNNING, 4000),
        reading("hyde", State.RUNNING, 5000),
        reading("chat", State.RUNNING, 7000),
    )
    with pytest.raises(error) as caught:
        plan(found, target, services=odd, leases=(Lease(id="1", holder="somebody", service="chat"),))
    assert caught.value.code == code
    for name in names:
        assert name in str(caught.value)
    assert caught.value.info.hint


def test_cascade_stops_dependents_first_and_restarts_them() -> None:
    found = machine(reading("embedding", State.RUNNING, 4000), reading("hyde", State.RUNNING, 5000))
    policy = Policy(alternatives=False, cascade=True)
    made = plan(found, want(mode=None, stop_others=False, stop=("embedding",)), policy=policy)
    assert acts(made)[:2] == [("stop", "hyde"), ("stop", "embedding")]
    again = plan(found, want(mode=None, stop_others=False, restart=("embedding",)), policy=policy)
    assert acts(again)[:4] == [("stop", "hyde"), ("stop", "embedding"), ("start", "embedding"), ("start", "hyde")]


def test_target_of_wants_back_what_served() -> None:
    before = {
        "chat": reading("chat", State.RUNNING, 7000),
        "hyde": reading("hyde", State.SLEEPING, 600),
        "reranker": reading("reranker", State.UNHEALTHY, 6000),
        "tool": reading("tool", State.UNHEALTHY, 0),
        "embedding": ServiceReading(service="embedding", state=State.FAILED),
        "stranger": reading("stranger", State.RUNNING, 1),
    }
    back = target_of(before, SERVICES)
    assert [(m.service, m.want, m.gpus) for m in back.members] == [
        ("chat", Want.AWAKE, (0,)),
        ("hyde", Want.ASLEEP, (0,)),
        ("reranker", Want.AWAKE, (0,)),
    ]
    assert back.stop_others
    assert back.mode is None


def test_what_failed_and_still_holds_memory_is_stopped_before_it_starts() -> None:
    snapshot = machine(reading("chat", State.FAILED, 7000))
    made = plan(snapshot, want("chat"))
    assert acts(made)[:2] == [("stop", "chat"), ("start", "chat")]
    assert made.steps[1].waits_for == (1,)
    assert made.steps[1].takes_mb == {0: 7000}
    assert made.gpus[0].peak_mb == 7000
