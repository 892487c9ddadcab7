"""`watch` in a mode that was taken with an alternative, beside turns, and with neighbours that do not come up."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.domain.plan import AlternativeKind
from gpumod.domain.run import RunStatus
from gpumod.operations.params import ServiceChange, ServiceRemove, SimulateParams, SwitchParams
from gpumod.operations.use_results import SleepIdleParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("hyde", 4000, 9001, naps=True),
    quick_service("rank", 4500, 9002, naps=True),
    quick_service("big", 7000, 9003, role="chat"),
    quick_service("small", 500, 9004, role="chat"),
    quick_service("extra", 5000, 9005),
    quick_service("long", 6000, 9006, context_size=32768, kv_cache_per_1k=100),
)
MODES = (
    world_mode("both", "hyde", "rank"),
    world_mode("rag", "hyde:time-shared", "rank:time-shared"),
    world_mode("chat", "big", "rank"),
    world_mode("long", "long", "rank"),
    world_mode("small", "small"),
    world_mode("off"),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[*SERVICES, *MODES])


def take(box: Any, mode: str, kind: AlternativeKind) -> str:
    """Go to a mode that does not fit, with an alternative of this kind; its id."""
    refused = box.ask("switch", SwitchParams(mode=mode))
    found: str = next(a.id for a in refused.plan.alternatives if a.kind is kind)
    assert box.ask("switch", SwitchParams(mode=mode, alternative=found)).exit_code == 0
    return found


def test_one_that_takes_turns_by_an_alternative_comes_back_asleep(box: Any) -> None:
    take(box, "both", AlternativeKind.TIME_SHARE)
    box.ask("service_wake", ServiceChange(service="small"))
    seen = box.look()
    box.crash("rank")
    (done,) = box.look(seen).mended
    assert (done.subject, done.error) == ("rank", None)
    assert box.world.states() == {"hyde": "asleep", "rank": "asleep", "small": "ready"}


def test_one_that_takes_turns_by_an_alternative_sleeps_when_nobody_asks(box: Any) -> None:
    box.settings["idle_timeout_s"] = 60
    take(box, "both", AlternativeKind.TIME_SHARE)
    box.ask("service_wake", ServiceChange(service="hyde"))
    assert box.look().mended == ()
    box.pass_time(61)
    assert [done.what for done in box.look().mended] == ["sleep"]
    assert box.world.states() == {"hyde": "asleep", "rank": "asleep"}


def test_what_an_alternative_put_in_place_of_another_is_of_the_mode(box: Any) -> None:
    take(box, "chat", AlternativeKind.SMALLER_PRESET)
    seen = box.look()
    box.crash("small")
    seen = box.look(seen)
    assert ([done.subject for done in seen.mended], seen.whole) == (["small"], True)


def test_what_comes_back_is_known_as_that_of_the_alternative(box: Any) -> None:
    taken = take(box, "long", AlternativeKind.CONTEXT)
    seen, before = box.look(), box.observe().reading("long")
    assert taken in before.altered
    box.crash("long")
    (done,) = box.look(seen).mended
    after = box.observe().reading("long")
    assert (done.error, after.altered, after.launched) == (None, before.altered, before.launched)


def test_a_mode_comes_up_after_a_boot_though_its_alternative_is_gone(box: Any) -> None:
    box.settings["boot_mode"] = "@last"
    found = box.ask("simulate", SimulateParams(mode="small", add=("extra", "rank")))
    left_out = next(a for a in found.alternatives if a.kind is AlternativeKind.LEAVE_OUT and "rank" in a.title)
    assert box.ask("switch", SwitchParams(mode="small", alternative=left_out.id)).exit_code == 0
    box.look()
    box.stop("extra")
    box.ask("service_remove", ServiceRemove(service="extra"))
    box.boot()
    (done,) = box.look().mended
    assert (done.what, done.subject, done.error) == ("boot", "small", None)
    assert box.world.states() == {"small": "ready"}


def test_who_has_a_turn_gets_what_crashed_back_awake(box: Any) -> None:
    box.switch("rag")
    mine = box.begin("hyde")
    seen = box.look()
    box.crash("hyde")
    (done,) = box.look(seen).mended
    assert (done.subject, done.error) == ("hyde", None)
    assert box.world.states() == {"hyde": "ready", "rank": "asleep"}
    box.end(mine)
    assert box.world.states() == {"hyde": "asleep", "rank": "asleep"}
    assert box.store.turns() == ()


def test_its_own_mode_is_no_obstacle_to_a_turn(box: Any) -> None:
    """Who has a turn stays awake; when the next one has theirs, that is over: both at once are not counted."""
    box.switch("rag")
    box.begin("hyde")
    assert box.ask("switch", SwitchParams(mode="rag")).status is RunStatus.NOTHING_TO_DO
    asked = box.ask("simulate", SimulateParams(mode="rag", add=("small",)))
    assert (asked.fits, {turn.service for turn in asked.turns}) == (True, {"hyde", "rank"})
    box.crash("hyde")
    assert box.ask("switch", SwitchParams(mode="rag")).status is RunStatus.DONE
    assert box.world.states() == {"hyde": "ready", "rank": "asleep"}


def test_who_comes_up_does_so_without_who_does_not(box: Any) -> None:
    box.define(world_mode("two", "small", "hyde"))
    box.switch("two")
    seen = box.look()
    box.crash("hyde")
    box.crash("small")
    box.world.fault("hyde", "oom-at-start")
    tried = []
    for _ in range(20):
        seen = box.look(seen)
        tried += [done.subject for done in seen.mended]
        box.pass_time(10)
    assert box.world.states() == {"small": "ready"}
    assert {*tried[0].split(", ")} == {"hyde", "small"}
    assert sorted(tried[1:]) == ["hyde", "hyde", "small"]
    (note,) = seen.notes
    assert note.startswith("hyde is left alone, it was restarted 3 times")


def test_who_falls_asleep_does_so_without_who_does_not(box: Any) -> None:
    idle = {"naps": True, "idle_timeout": 20}
    box.define(quick_service("one", 1000, 9011, **idle), quick_service("two", 1000, 9012, **idle))
    box.define(world_mode("two", "one", "two"))
    box.switch("two")
    box.world.fault("one", "sleep-500")
    seen, tried = box.look(), []
    for _ in range(12):
        box.pass_time(10)
        seen = box.look(seen)
        tried += [done.subject for done in seen.mended]
    assert tried == ["one, two", "one", "two"]
    assert box.world.states() == {"one": "ready", "two": "asleep"}


def test_who_is_put_to_sleep_by_a_timer_does_not_wait_for_who_does_not_fall_asleep(box: Any) -> None:
    names = ("one", "two", "three")
    box.define(*(quick_service(s, 1000, 9011 + n, naps=True, idle_timeout=20) for n, s in enumerate(names)))
    box.define(world_mode("three", *names))
    box.switch("three")
    for service in names[:2]:
        box.world.fault(service, "sleep-500")
    for left in (names[:2], names[:1]):
        for _ in range(5):
            box.pass_time(30)
            box.ask("auto_sleep_idle", SleepIdleParams())
        assert {s for s, state in box.world.states().items() if state == "ready"} == {*left}
        box.world.faults.pop("two", None)


def test_a_run_of_its_own_that_was_cut_off_is_closed_by_the_next_watch(box: Any) -> None:
    box.define(world_mode("two", "small", "hyde"))
    box.switch("two")
    seen = box.look()
    box.crash("small")
    killed: list[Any] = []
    box.when("start small after", lambda: killed.append(box.copy("killed")))
    box.look(seen)
    (cut,) = killed
    assert cut.store.open_run() is not None
    (done,) = cut.look().mended
    assert (done.what, done.subject, done.error) == ("recover", "watch: restart small", None)
    assert cut.store.open_run() is None
    cut.pass_time(15)
    assert [again.subject for again in cut.look().mended] == ["small"]
    assert cut.world.states() == {"hyde": "ready", "small": "ready"}
    cut.close()
