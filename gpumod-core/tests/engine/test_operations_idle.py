"""Sleeping for idleness over a world: after its time-out, not while it is used, and not by our own looking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef
from gpumod.operations.use_results import SleepIdleParams, TurnParams
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

QUICK = {"load_s": 0.2, "stop_s": 0.05, "sleep_s": 0.1, "wake_s": 0.1}
SERVICES = (
    world_service("writer", 4000, 9001, naps=True, idle_timeout=60, **QUICK),
    world_service("other", 4000, 9002, naps=True, **QUICK),
    world_service("plain", 500, 9003, **QUICK),
    world_service("mute", 500, 9004, naps=True, tells=False, idle_timeout=60, **QUICK),
    world_service("front", 500, 9005, depends_on=("writer",), **QUICK),
)
MODES = (
    world_mode("turns", "writer:time-shared", "other:time-shared"),
    world_mode("both", "writer", "plain"),
    world_mode("quiet", "mute"),
    world_mode("needed", "front", "writer"),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[*SERVICES, *MODES])


def sleep_idle(box: Any, **params: Any) -> Any:
    return box.ask("auto_sleep_idle", SleepIdleParams(**params))


def looks(box: Any, seconds: int, every: int = 10) -> Any:
    """`watch` looks again and again; the last look."""
    seen = box.look()
    for _ in range(seconds // every):
        box.pass_time(every)
        seen = box.look(seen)
    return seen


def test_it_sleeps_after_its_time_out_and_the_mode_is_whole(box: Any) -> None:
    box.switch("both")
    looks(box, 50)
    assert box.world.states()["writer"] == "ready"
    box.pass_time(12)
    seen = box.look()
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("sleep", "writer", None)
    assert "of 60 s that it may" in done.why
    assert box.world.states() == {"plain": "ready", "writer": "asleep"}
    assert seen.whole
    assert box.ask("mode_status", ModeRef(mode="both")).whole
    box.pass_time(100)
    assert box.look().mended == ()
    box.check_sound()


def test_a_time_out_that_a_service_got_while_it_runs_leaves_the_mode_whole(box: Any) -> None:
    box.define(world_service("quiet", 500, 9006, naps=True, **QUICK), world_mode("later", "quiet"))
    box.switch("later")
    box.define(world_service("quiet", 500, 9006, naps=True, idle_timeout=30, **QUICK))
    seen = looks(box, 60)
    assert box.world.states()["quiet"] == "asleep"
    assert seen.whole
    assert seen.ok
    assert box.ask("mode_verify", ModeRef(mode="later")).whole
    box.define(world_service("quiet", 500, 9006, naps=True, **QUICK))
    assert not box.ask("mode_verify", ModeRef(mode="later")).whole  # it need not sleep any more


def test_a_mode_is_whole_while_a_member_sleeps_with_what_it_needs(box: Any) -> None:
    box.define(
        world_service("base", 500, 9006, naps=True, idle_timeout=30, **QUICK),
        world_service("top", 500, 9007, naps=True, idle_timeout=30, depends_on=("base",), **QUICK),
        world_mode("tower", "top"),
    )
    box.switch("tower")
    seen = looks(box, 120)
    assert {s: box.world.states()[s] for s in ("base", "top")} == {"base": "asleep", "top": "asleep"}
    assert seen.whole


def test_use_is_what_keeps_it_awake_and_a_long_request_is_use(box: Any) -> None:
    box.switch("both")
    for _ in range(3):
        looks(box, 50, 25)
        box.world.use("writer")
    assert box.world.states()["writer"] == "ready"
    box.world.alive()["writer"].in_flight = 1
    looks(box, 200, 100)
    (row,) = sleep_idle(box, dry_run=True).services
    assert (row.in_flight, row.why) == (1, "1 request under way")
    assert box.world.states()["writer"] == "ready"
    box.world.alive()["writer"].in_flight = 0
    looks(box, 50)
    assert box.world.states()["writer"] == "ready"  # its clock begins when the request ends
    looks(box, 30)
    assert box.world.states()["writer"] == "asleep"


def test_a_request_in_the_last_moment_is_seen_under_the_lock(box: Any) -> None:
    box.switch("both")
    looks(box, 50)
    box.pass_time(20)
    box.world.fault("plain", "hang")  # the look under the lock takes some seconds
    clock = box.world.clock

    async def race() -> Any:
        asking = asyncio.create_task(Gpumod(box.machine(), bare_tools()).auto_sleep_idle(SleepIdleParams()))
        while box.world.holder is None:
            await clock.sleep(0.1)
        box.world.use("writer")
        return await asking

    result = clock.run(race())
    assert (result.change, result.notes) == (None, ("what was to sleep was used again just now",))
    assert box.world.states()["writer"] == "ready"
    box.check_sound()


@pytest.mark.slow
def test_members_that_take_turns_have_the_time_out_of_the_settings(box: Any) -> None:
    box.settings["idle_timeout_s"] = 30.0
    box.switch("turns")
    box.start("other")
    looks(box, 20)
    assert box.world.states()["other"] == "ready"
    looks(box, 30)
    assert box.world.states()["other"] == "asleep"


@pytest.mark.slow
def test_a_mode_has_its_own_time_out_for_a_member(box: Any) -> None:
    member = ModeMember(service="writer", want=Want.TIME_SHARED, idle_timeout=0)
    box.define(Mode(id="turns", members=(member, ModeMember(service="other", want=Want.TIME_SHARED))))
    box.switch("turns")
    box.start("writer")
    looks(box, 200, 100)
    assert box.world.states()["writer"] == "ready"


@pytest.mark.slow
def test_a_wake_by_a_person_begins_a_new_time(box: Any) -> None:
    box.switch("both")
    looks(box, 80)
    assert box.world.states()["writer"] == "asleep"
    box.start("writer")
    looks(box, 50)
    assert box.world.states()["writer"] == "ready"
    looks(box, 20)
    assert box.world.states()["writer"] == "asleep"


def test_one_that_cannot_tell_is_never_put_to_sleep_and_that_is_said(box: Any) -> None:
    box.switch("quiet")
    seen = looks(box, 200, 100)
    assert box.world.states()["mute"] == "ready"
    assert seen.notes == ("mute does not sleep when it idles: it does not tell whether it is in use",)


@pytest.mark.slow
def test_what_somebody_needs_or_holds_stays_awake(box: Any) -> None:
    box.switch("needed")
    looks(box, 120, 60)
    (row,) = sleep_idle(box).services
    assert row.why == "front needs it"
    box.switch("both")
    held = box.ask("service_turn", TurnParams(service="writer", pid=7)).turn
    looks(box, 120, 60)
    assert "somebody (pid 7) holds it" in sleep_idle(box).services[0].why
    box.ask("service_turn", TurnParams(end=held.id))
    assert box.world.states()["writer"] == "ready"  # it was awake before
    looks(box, 20)
    assert box.world.states()["writer"] == "asleep"


def test_somebody_at_work_is_not_disturbed(box: Any) -> None:
    box.switch("both")
    looks(box, 50)
    box.pass_time(20)
    box.world.holder = Holder(pid=7, user="ann", command="switch quiet", home="/h", since=0.0)
    assert box.look().mended == ()
    box.world.holder = None
    assert box.look().mended[0].subject == "writer"


@pytest.mark.slow
def test_one_that_does_not_fall_asleep_is_tried_a_few_times(box: Any) -> None:
    box.switch("both")
    box.world.fault("writer", "sleep-500")
    seen, errors = box.look(), 0
    for _ in range(20):
        box.pass_time(60)
        seen = box.look(seen)
        errors += sum(done.error is not None for done in seen.mended)
    assert errors == 3
    assert box.world.states()["writer"] == "ready"
    box.check_sound()


def test_where_nothing_is_due_nothing_is_written(box: Any) -> None:
    box.switch("both")
    box.look()
    box.acts.clear()
    looks(box, 30)
    assert [act for act in box.acts if "put_uses" in act] == []
