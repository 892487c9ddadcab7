"""Memory that comes late, is not told, or is just not there: what is measured, and what is tried again."""

from __future__ import annotations

import pytest

from gpumod.domain.footprint import Source
from gpumod.testing.world_drivers import world_mode, world_service

BIG = world_service("big", 4000, 9000, uses_mb=900, residue_mb=300, naps=True)


def counted(box):
    """What the plan of the next switch to `on` counts for `big`, and why."""
    found = next(row for row in box.switch("on").plan.services if row.id == "big")
    return found.vram_mb, found.source


def measured(box):
    """The last measurement of each kind, whatever it was taken of."""
    return {kind: value for kinds in box.store.samples().values() for kind, value in kinds.items()}


@pytest.fixture
def box(make_box):
    return make_box(8000, define=[BIG, world_mode("on", "big"), world_mode("nap", "big:asleep"), world_mode("off")])


def grow(box, mb):
    """The first request comes, and the service takes the rest."""
    box.world.use("big")
    assert box.world.hold(box.world.alive()["big"], mb) == 0


def test_less_than_declared_is_not_believed_when_it_was_just_started(box):
    assert box.switch("on").exit_code == 0
    assert box.world.managed_mb() == {"big": 900}
    assert "settled_mb" not in measured(box)
    assert counted(box) == (4000, Source.DECLARED)


@pytest.mark.parametrize("leave", ["off", "nap"])
def test_less_is_not_believed_of_what_nobody_has_used_yet(box, leave):
    box.switch("on")
    assert box.switch(leave).exit_code == 0
    assert "settled_mb" not in measured(box)
    assert counted(box) == (4000, Source.DECLARED)


def test_what_was_woken_is_not_believed_before_it_is_used_again(box):
    box.switch("on")
    grow(box, 3600)
    for leave in ("nap", "nap", "off"):
        box.switch(leave)
        assert counted(box) == (3600, Source.MEASURED), leave
    grow(box, 3200)
    box.switch("nap")
    assert counted(box) == (3200, Source.MEASURED)


@pytest.mark.parametrize("how", [{"tells": False}, {"unloads": True}], ids=str)
def test_more_alone_is_believed_of_what_does_not_tell_its_use_or_unloads_by_itself(make_box, how):
    big = world_service("big", 4000, 9000, uses_mb=900, **how)
    box = make_box(8000, define=[big, world_mode("on", "big"), world_mode("off")])
    for grown_mb, believed in ((3600, (4000, Source.DECLARED)), (4300, (4300, Source.MEASURED))):
        box.switch("on")
        grow(box, grown_mb)
        box.switch("off")
        assert counted(box) == believed


def test_what_is_up_is_compared_with_what_it_was_launched_as(box):
    """What it holds before its first use is more than the new definition says, and still less than it will take."""
    box.switch("on")
    box.define(BIG.model_copy(update={"vram_mb": 800}))
    box.switch("off")
    box.define(BIG)
    assert counted(box) == (4000, Source.DECLARED)


@pytest.mark.parametrize(("grown_mb", "leave"), [(3600, "off"), (4300, "nap")])
def test_what_it_holds_when_it_ends_or_sleeps_is_believed(box, grown_mb, leave):
    box.switch("on")
    grow(box, grown_mb)
    assert box.switch(leave).exit_code == 0
    assert measured(box)["settled_mb"] == grown_mb
    assert counted(box) == (grown_mb, Source.MEASURED)


def test_what_is_woken_and_has_not_grown_again_changes_no_measurement(box):
    box.switch("on")
    grow(box, 4300)
    box.switch("nap")
    box.switch("on")
    assert box.world.managed_mb() == {"big": 900}
    assert measured(box)["settled_mb"] == 4300


def test_a_service_that_was_asleep_when_it_was_stopped_is_not_measured(box):
    box.switch("on")
    grow(box, 4300)
    box.switch("nap")
    box.switch("off")
    assert measured(box)["settled_mb"] == 4300
    assert measured(box)["asleep_mb"] == 300


def test_a_card_that_does_not_tell_what_each_process_holds(box):
    box.world.tells_processes = False
    for mode in ("on", "nap", "on", "off"):
        outcome = box.switch(mode)
        assert (outcome.exit_code, outcome.error) == (0, None), mode
    assert not {"settled_mb", "asleep_mb"} & set(measured(box))
    assert {"start_s", "sleep_s", "wake_s"} <= set(measured(box))
    assert counted(box) == (4000, Source.DECLARED)


# --- a sleep that nobody waits for any more --------------------------------------------------------------------------


def test_a_sleep_that_comes_too_late_does_not_undo_the_way_back(make_box):
    nap = world_service("nap", 5000, 9001, naps=True)
    box = make_box(8000, define=[nap, world_mode("awake", "nap"), world_mode("asleep", "nap:asleep")])
    box.switch("awake")
    box.world.fault("nap", "sleep-late", 60.0)
    outcome = box.switch("asleep")
    assert (outcome.exit_code, outcome.error.code) == (6, "sleep-timeout")
    assert box.world.states() == {"nap": "ready"}
    box.world.clock.run(box.world.clock.sleep(120.0))
    assert box.world.states() == {"nap": "ready"}
    assert box.world.managed_mb() == {"nap": 5000}
    assert box.states() == {"nap": "running"}
    box.check_sound()


# --- a member that is unloaded, and whose process goes on -------------------------------------------------------------


def test_a_member_that_lets_nothing_go_is_not_asleep(make_box):
    host = world_service("router", 0, 9000, driver="world-host")
    box = make_box(8000, define=[host, world_service("one", 2000, host="router", sleep_mode="unload")])
    assert box.start("one").exit_code == 0
    old = box.world.alive()["one"]
    box.world.fault("one", "sleep-frees-nothing")
    outcome = box.start("one", want="asleep")
    assert (outcome.exit_code, outcome.error.code) == (6, "memory-not-released")
    assert outcome.error.why == f"process one (pid {old.pid}) with 2000 MiB still in use"
    assert box.states() == {"one": "running", "router": "running"}
    box.world.kill(old, 0)
    assert box.world.managed_mb() == {"one": 2000, "router": 0}
    box.check_sound()


# --- a start that runs out of memory ----------------------------------------------------------------------------------


def test_it_is_tried_once_more_where_there_is_room_and_no_oftener(box):
    box.world.fault("big", "oom-at-start")
    outcome = box.switch("on")
    assert (outcome.exit_code, outcome.error.code) == (6, "out-of-memory")
    assert box.acts.count("start big before") == 2
    waits = [news.text for news in box.told if "once more" in news.text]
    assert waits == ["big once more: it ran out of memory, and there is room now"]
    assert box.world.states() == {}
    box.check_sound()


def test_it_is_told_at_once_where_there_is_no_room(box):
    box.define(BIG.model_copy(update={"unit_vars": {}}))
    box.when("start big after", lambda: box.world.foreign(7000))
    outcome = box.switch("on")
    assert (outcome.exit_code, outcome.error.code) == (6, "out-of-memory")
    assert outcome.error.why == "it needs 4000 MiB and has 1000 MiB, 3000 MiB short"
    assert box.acts.count("start big before") == 1
    assert not [news for news in box.told if "once more" in news.text]
    box.check_sound()


def test_a_member_too_is_tried_once_more(make_box):
    host = world_service("router", 0, 9000, driver="world-host")
    box = make_box(8000, define=[host, world_service("one", 2000, host="router", sleep_mode="unload")])
    box.world.fault("one", "oom-at-start")
    box.when("unload one before", box.world.faults.clear)
    outcome = box.start("one")
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert box.acts.count("load one before") == 2
    step = next(step for step in outcome.run.steps if step.step.service == "one")
    assert "second try" in step.detail
    box.check_sound()
