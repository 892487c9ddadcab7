"""What was measured is used in the next plan; what is no measurement is not."""

from __future__ import annotations

import pytest

from gpumod.domain.footprint import Source
from gpumod.domain.mode import Want
from gpumod.domain.states import Action
from gpumod.testing.world_drivers import world_mode, world_service

BIG = world_service("big", 4000, 9000, uses_mb=5200, residue_mb=700, load_s=7.0, wake_s=1.5, naps=True)


def counted(outcome, service="big"):
    found = next(s for s in outcome.plan.services if s.id == service)
    return found.vram_mb, found.source


def expected_s(outcome, action):
    return next(step.expected_s for step in outcome.plan.steps if step.action is action)


@pytest.fixture
def box(make_box):
    return make_box(8000, define=[BIG, world_mode("on", "big"), world_mode("nap", "big:asleep"), world_mode("off")])


def test_memory_and_times_are_measured_and_used(box):
    first = box.switch("on")
    assert counted(first) == (4000, Source.DECLARED)
    assert expected_s(first, Action.START) != pytest.approx(7.0, abs=0.5)
    assert not any(step.expected_measured for step in first.plan.steps)
    box.switch("nap")
    box.switch("on")
    box.switch("off")
    again = box.switch("nap")
    assert counted(again) == (5200, Source.MEASURED)
    assert expected_s(again, Action.START) == pytest.approx(7.0, abs=0.2)
    assert {s.action: s.expected_measured for s in again.plan.steps}[Action.START]
    woken = box.switch("on")
    assert expected_s(woken, Action.WAKE) == pytest.approx(1.5, abs=0.2)
    assert [gpu.before_mb for gpu in woken.plan.gpus] == [700]
    stopped = box.switch("off")
    assert expected_s(stopped, Action.STOP) == pytest.approx(0.5, abs=0.2)


def start_peak(box, service):
    """The most that the plan of a start of `service` reserves for it, after it was started once and stopped."""
    first = box.start(service)
    assert first.exit_code == 0
    box.stop(service)
    return first.plan.gpus[0].peak_mb, box.start(service).plan.gpus[0].peak_mb


def test_the_peak_of_a_start_is_measured_and_used(make_box):
    box = make_box(8000, define=[world_service("spike", 3000, 9000, peak_mb=4500)])
    assert start_peak(box, "spike") == (3000, 4500)


def test_the_peak_of_a_member_is_its_own(make_box):
    router = world_service("router", 0, 9000, driver="world-host")
    box = make_box(8000, define=[router, world_service("member", 3000, host="router", peak_mb=4500)])
    assert start_peak(box, "member") == (3000, 4500)


@pytest.mark.parametrize("why", ["the card tells nothing", "it is too quick to be seen"])
def test_a_peak_that_nobody_saw_is_none(make_box, why):
    load_s = 0.2 if "quick" in why else 2.0
    box = make_box(8000, define=[world_service("spike", 3000, 9000, peak_mb=4500, load_s=load_s)])
    box.world.tells_processes = "quick" in why
    assert start_peak(box, "spike") == (3000, 3000)


def test_a_mode_that_was_measured_to_be_too_large_is_refused(box):
    box.define(world_service("other", 2500, 9001), world_mode("both", "big", "other"))
    box.switch("on")
    assert box.switch("both").exit_code == 3
    assert box.world.states() == {"big": "ready"}


def test_an_edited_definition_is_not_answered_by_old_measurements(box):
    box.switch("on")
    box.switch("off")
    box.define(BIG.model_copy(update={"vram_mb": 3000}))
    assert counted(box.switch("on")) == (3000, Source.DECLARED)


def test_a_fallback_to_the_cpu_is_no_measurement(box):
    box.world.fault("big", "cpu-fallback")
    assert box.switch("on").error.code == "cpu-fallback"
    box.world.faults.clear()
    assert counted(box.switch("on")) == (4000, Source.DECLARED)


def test_a_start_that_failed_is_no_measurement(box):
    box.world.fault("big", "die-after", 6.0)
    assert box.switch("on").exit_code == 6
    assert box.store.samples() == {}


def test_members_are_measured_by_their_own_process(make_box):
    host = world_service("router", 0, 9000, driver="world-host")
    members = [
        world_service(name, 2000, host="router", sleep_mode="unload", uses_mb=mb)
        for name, mb in (("one", 2100), ("two", 1900))
    ]
    box = make_box(8000, define=[host, *members, world_mode("both", "one", "two"), world_mode("off")])
    box.switch("both")
    box.world.use("router")
    box.start("one", want=Want.ASLEEP)
    box.switch("off")
    outcome = box.switch("both")
    assert counted(outcome, "one") == (2100, Source.MEASURED)
    assert counted(outcome, "two") == (1900, Source.MEASURED)
    assert counted(outcome, "router")[0] == 0
