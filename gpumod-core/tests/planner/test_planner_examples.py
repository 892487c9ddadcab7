"""Plans for a 24 GB card, by example: the verdict, and the steps from what is to what is wanted."""

from __future__ import annotations

import pytest

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Plan, TargetMember, VerdictKind
from gpumod.domain.states import State
from gpumod.planner import target_of
from gpumod.testing.examples import SERVICES, acts, asleep, machine, plan, reading, turns, want


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
