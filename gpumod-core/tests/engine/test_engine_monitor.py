"""Health over a world: one task for each service, slips that change nothing, and a crash that is mended at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpumod.domain.health import Health, Limits, Pulse
from gpumod.engine.monitor import Monitor
from gpumod.operations.params import ServiceChange
from gpumod.operations.watch_results import WatchParams, WatchResult
from gpumod.ports import Holder
from gpumod.testing.world_drivers import world_mode, world_service

QUICK = {"load_s": 0.2, "stop_s": 0.05}
SERVICES = (
    world_service("base", 1000, 9001, **QUICK),
    world_service("nap", 4000, 9003, naps=True, **QUICK),
    world_service("router", 0, 9005, driver="world-host", **QUICK),
    world_service("guest", 1000, host="router", sleep_mode="unload", **QUICK),
)
MODES = (world_mode("on", "base", "nap"), world_mode("hosted", "guest"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[*SERVICES, *MODES])


def follow(box: Any, seconds: float, pulses: Mapping[str, Pulse] | None = None, **limits: Any) -> Monitor:
    told = Limits.model_validate({"interval_s": 10.0, "jitter": 0.0, **limits})
    monitor = Monitor(box.machine(), told, lambda: 0.5, dict(pulses or {}))
    box.world.clock.run(monitor.follow(box.world.clock.now() + seconds))
    return monitor


def healths(monitor: Monitor) -> dict[str, str]:
    return {service: str(pulse.health) for service, pulse in sorted(monitor.pulses.items())}


def told(monitor: Monitor) -> list[tuple[str, Health, Health]]:
    return [(news.service, news.before, news.now) for news in monitor.transitions]


def test_what_serves_or_sleeps_is_healthy(box: Any) -> None:
    box.switch("hosted")
    assert healths(follow(box, 5)) == {"guest": "healthy", "router": "healthy"}
    box.switch("on")
    box.ask("service_sleep", ServiceChange(service="nap"))
    assert healths(follow(box, 5)) == {"base": "healthy", "nap": "healthy"}


def test_one_that_hangs_is_unhealthy_after_three_looks_and_holds_nobody_up(box: Any) -> None:
    box.switch("on")
    well = follow(box, 5)
    box.world.fault("nap", "hang")
    began = box.world.clock.now()
    sick = follow(box, 60, well.pulses)
    assert told(sick) == [("nap", Health.HEALTHY, Health.UNHEALTHY)]
    assert 25 <= sick.transitions[0].at - began <= 45
    assert "no answer" in sick.transitions[0].why
    assert sick.pulses["base"].streak >= 5  # it was asked in time all the while
    rare = follow(box, 600, sick.pulses)
    assert rare.pulses["nap"].streak < 10 < rare.pulses["base"].streak
    box.world.faults.clear()
    assert told(follow(box, 900, rare.pulses)) == [("nap", Health.UNHEALTHY, Health.HEALTHY)]


def test_a_single_slip_is_not_told(box: Any) -> None:
    box.switch("on")
    known = follow(box, 5).pulses
    for _ in range(3):
        box.world.fault("nap", "hang")
        known = (slip := follow(box, 14, known)).pulses
        assert slip.transitions == []
        box.world.faults.clear()
        known = (well := follow(box, 14, known)).pulses
        assert well.transitions == []


def test_an_end_is_told_at_once(box: Any) -> None:
    box.switch("on")
    known = follow(box, 5).pulses
    box.crash("nap")
    began = box.world.clock.now()
    ended = follow(box, 300, known)
    assert told(ended) == [("nap", Health.HEALTHY, Health.UNHEALTHY)]
    assert box.world.clock.now() - began < 11
    assert "exited with code 9" in ended.transitions[0].why


def test_while_somebody_is_at_work_nothing_is_judged(box: Any) -> None:
    box.switch("on")
    known = follow(box, 5).pulses
    box.world.holder = Holder(pid=7, user="ann", command="switch hosted", home="/h", since=0.0)
    box.world.fault("nap", "hang")
    busy = follow(box, 100, known)
    assert (busy.transitions, healths(busy)["nap"]) == ([], "healthy")


@pytest.mark.slow
def test_one_that_was_started_anew_is_judged_anew(box: Any) -> None:
    box.switch("on")
    box.world.fault("nap", "hang")
    sick = follow(box, 60)
    assert healths(sick)["nap"] == "unhealthy"
    box.world.faults.clear()
    box.start("nap", restart=True)
    assert told(follow(box, 5, sick.pulses)) == [("nap", Health.UNKNOWN, Health.HEALTHY)]


def watch(box: Any, before: WatchResult | None, seconds: float = 10) -> WatchResult:
    known = {} if before is None else {"held": before.held, "pulses": before.pulses, "follow_s": seconds}
    result: WatchResult = box.ask("watch", WatchParams.model_validate(known))
    return result


def test_a_crash_is_mended_at_once_and_a_crash_loop_ends_with_its_budget_and_the_reason(box: Any) -> None:
    box.settings["restart_budget"] = 2
    box.settings["restart_window_s"] = 900.0
    box.switch("on")
    seen, restarts = watch(box, watch(box, None)), 0
    box.world.fault("nap", "die-after", 5)
    box.crash("nap")
    for _ in range(20):
        seen = watch(box, seen)
        restarts += sum(done.what == "restart" for done in seen.mended)
    assert restarts == 2
    assert any(
        "nap is left alone, it was restarted 2 times within 900 s (it exited with code 3" in n for n in seen.notes
    )
    (given_up,) = box.store.events_of("restart-given-up", limit=9)
    assert (given_up.subject, given_up.data["restarts"]) == ("nap", 2)
    told = [
        (e.data["before"], e.data["now"])
        for e in reversed(box.store.events_of("health", limit=99))
        if e.subject == "nap"
    ]
    assert told[:2] == [("unknown", "healthy"), ("healthy", "unhealthy")]
    assert box.world.states() == {"base": "ready"}


@pytest.mark.slow
def test_one_that_dies_while_it_starts_is_tried_as_often_as_its_budget_says(box: Any) -> None:
    box.switch("on")
    seen = watch(box, watch(box, None))
    box.world.fault("nap", "die-after", 0.1)
    box.crash("nap")
    errors: list[str] = []
    for _ in range(15):
        seen = watch(box, seen)
        errors += [done.error.code for done in seen.mended if done.error]
    assert errors == ["died-while-starting"] * 3
    (note,) = [note for note in seen.notes if "left alone" in note]
    assert "it did not come up again" in note
    box.world.faults.clear()
    box.pass_time(3600)
    assert watch(box, seen).whole
    box.check_sound()


@pytest.mark.slow
def test_one_that_did_not_come_up_again_and_that_a_person_stops_stays_so(box: Any) -> None:
    box.switch("on")
    seen = watch(box, watch(box, None))
    box.world.fault("nap", "die-after", 0.1)
    box.crash("nap")
    assert watch(box, seen).mended[0].error is not None
    box.world.faults.clear()
    box.start("nap")
    box.stop("nap")
    box.pass_time(600)
    assert watch(box, seen).mended == ()


@pytest.mark.slow
def test_one_that_lives_and_is_not_well_is_left_to_a_person(box: Any) -> None:
    box.switch("on")
    seen = watch(box, watch(box, None))
    box.world.fault("nap", "hang")
    for _ in range(6):
        seen = watch(box, seen)
    assert seen.mended == ()
    assert any(note.startswith("nap is not healthy: no answer") for note in seen.notes)


@pytest.mark.slow
def test_with_no_budget_nothing_is_restarted(box: Any) -> None:
    box.settings["restart_budget"] = 0
    box.switch("on")
    seen = watch(box, None)
    box.crash("nap")
    assert watch(box, seen).mended == ()
