"""Faults at every step: the right exit code, the culprit named, and the machine as it was before or as it is wanted."""

from __future__ import annotations

import signal

import pytest

from gpumod.domain.errors import Failed, HalfWay, UsageError
from gpumod.domain.progress import ProgressKind
from gpumod.domain.run import RunStatus, StepStatus
from gpumod.testing.signals import interrupt
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (
    world_service("keep", 1000, 9000, load_s=0.2),
    world_service("gone", 6000, 9001, load_s=0.2),
    world_service("nap", 5000, 9002, naps=True, load_s=0.2),
    world_service("come", 9000, 9003),
    world_service("late", 2000, 9004, depends_on=("come",)),
    world_service("router", 0, 9005, driver="world-host", load_s=0.2),
    world_service("hyde", 2000, host="router", sleep_mode="unload"),
)
MODES = (
    world_mode("old", "keep", "gone", "nap"),
    world_mode("new", "keep", "nap:asleep", "come", "late"),
    world_mode("dozing", "keep", "nap:asleep"),
    world_mode("hosted", "keep", "hyde"),
)
OLD = {"gone": "ready", "keep": "ready", "nap": "ready"}
NEW = {"come": "ready", "keep": "ready", "late": "ready", "nap": "asleep"}
TOTAL_MB = 16_000


@pytest.fixture
def box(make_box):
    box = make_box(TOTAL_MB, define=[*SERVICES, *MODES])
    assert box.switch("old").exit_code == 0
    box.acts.clear()
    return box


def check_rolled_back(box, outcome, *, leak_mb=0):
    assert (outcome.status, outcome.exit_code) == (RunStatus.ROLLED_BACK, 6), outcome.error
    assert box.world.states() == OLD
    assert box.states() == dict.fromkeys(OLD, "running")
    assert box.store.current_mode() == "old"
    assert box.store.open_run() is None
    box.check_sound(leak_mb)


START_FAULTS = {
    "never-ready": (0, "start-timeout", "it loads"),
    "hang": (0, "start-timeout", "no answer"),
    "die-after": (0.7, "died-while-starting", "met something bad"),
    "oom-at-start": (0, "out-of-memory", "1000 MiB short"),
    "cpu-fallback": (0, "cpu-fallback", "fell back to the CPU"),
}


@pytest.mark.parametrize("service", ["come", pytest.param("late", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", START_FAULTS)
def test_a_start_that_fails(box, kind, service):
    value, code, why = START_FAULTS[kind]
    box.world.fault(service, kind, value)
    kept = box.world.alive()["keep"].pid
    outcome = box.switch("new", timeout_s=6.0)
    assert outcome.error.code == code
    assert service in outcome.error.message
    assert why in outcome.error.why
    check_rolled_back(box, outcome)
    assert box.world.alive()["keep"].pid == kept
    steps = {(step.phase, step.step.action, step.step.service): step.status for step in outcome.run.steps}
    assert steps["apply", "start", service] is StepStatus.FAILED
    assert steps["rollback", "start", "gone"] is StepStatus.DONE


def test_whoever_looks_on_sees_the_plan_of_the_way_back(box):
    box.world.fault("come", "never-ready", 0)
    box.told.clear()
    outcome = box.switch("new", timeout_s=6.0)
    check_rolled_back(box, outcome)
    begun, planned = (n for n, news in enumerate(box.told) if news.kind is ProgressKind.ROLLBACK)
    assert box.told[begun].plan is None
    later = [news.step for news in box.told[planned:] if news.step]
    assert later
    assert all(step in box.told[planned].plan.steps for step in later)


def test_a_death_is_noticed_at_once_with_its_exit_code(box):
    box.world.fault("come", "die-after", 0.7)
    outcome = box.switch("new")
    assert outcome.error.details["exit_code"] == 3
    assert outcome.error.why == "fatal: come met something bad"
    step = next(s for s in outcome.run.steps if s.step.service == "come" and s.status is StepStatus.FAILED)
    assert step.seconds < 0.7 + 0.5


def test_out_of_memory_has_its_numbers(box):
    box.world.fault("come", "oom-at-start")
    error = box.switch("new").error
    assert (error.details["need_mb"], error.details["have_mb"]) == (9000, 8000)


def test_a_start_that_met_no_room_is_tried_once_more_when_there_is(box):
    box.world.foreign(2000)  # so that what the dead one held is needed again
    box.world.fault("come", "oom-at-start")
    box.when("stop come before", box.world.faults.clear)
    outcome = box.switch("new")
    assert (outcome.exit_code, box.world.states()) == (0, NEW)
    step = next(s for s in outcome.run.steps if s.step.service == "come")
    assert "second try" in step.detail
    box.check_sound()


def test_a_slow_start_is_no_fault(box):
    box.world.fault("come", "slow-start", 9)
    assert box.switch("new").exit_code == 0
    assert box.world.states() == NEW


def test_a_member_that_cannot_be_loaded(box):
    box.world.fault("hyde", "oom-at-start")
    outcome = box.switch("hosted")
    assert outcome.error.code == "out-of-memory"
    check_rolled_back(box, outcome)


# --- stops ----------------------------------------------------------------------------------------------------------


def test_a_leak_is_told_and_borne_where_there_is_room(box):
    box.world.fault("gone", "leak", 3000)
    outcome = box.switch("new")
    assert (outcome.exit_code, box.world.states()) == (0, NEW)
    step = next(s for s in outcome.run.steps if s.step.service == "gone")
    assert "unattributed 3000 MiB" in step.detail
    box.check_sound(leak_mb=3000)


def test_a_leak_that_is_in_the_way_fails_and_is_named(box):
    box.world.fault("gone", "leak", 3900)
    outcome = box.switch("new")
    assert outcome.error.code == "memory-not-released"
    assert "unattributed 3900 MiB" in outcome.error.why
    check_rolled_back(box, outcome, leak_mb=3900)


def test_what_ignores_sigterm_is_killed(box):
    box.world.fault("gone", "ignore-sigterm")
    outcome = box.switch("new")
    assert (outcome.exit_code, box.world.states()) == (0, NEW)


def test_what_cannot_be_killed(box):
    box.world.fault("gone", "unkillable")
    pid = box.world.alive()["gone"].pid
    outcome = box.switch("new")
    assert outcome.error.code == "cannot-kill"
    assert str(pid) in outcome.error.message
    check_rolled_back(box, outcome)
    assert box.world.alive()["gone"].pid == pid


# --- sleep and wake -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("sleep-500", "sleep-failed"), ("sleep-hangs", "sleep-timeout")])
def test_a_sleep_that_fails(box, kind, code):
    box.world.fault("nap", kind)
    outcome = box.switch("new")
    assert outcome.error.code == code
    assert "nap" in outcome.error.message
    check_rolled_back(box, outcome)


def test_a_sleep_that_frees_nothing_becomes_a_stop_and_says_so(box):
    box.world.fault("nap", "sleep-frees-nothing")
    outcome = box.switch("new")
    assert outcome.exit_code == 0
    assert box.world.states() == {service: state for service, state in NEW.items() if service != "nap"}
    step = next(s for s in outcome.run.steps if s.step.service == "nap")
    assert "freed nothing (5000 MiB still held): it was stopped instead" in step.detail
    box.check_sound()


def test_a_wake_that_runs_out_of_memory(box):
    box.switch("dozing")
    box.world.fault("nap", "wake-oom")
    outcome = box.switch("old")
    assert (outcome.status, outcome.exit_code, outcome.error.code) == (RunStatus.ROLLED_BACK, 6, "out-of-memory")
    assert outcome.error.message == "nap could not wake: out of memory"
    assert (outcome.error.details["need_mb"], outcome.error.details["have_mb"]) == (5000, 4000)
    assert box.world.states() == {"keep": "ready", "nap": "asleep"}
    assert box.store.current_mode() == "dozing"
    box.check_sound()


# --- strangers ------------------------------------------------------------------------------------------------------


def test_a_stranger_on_the_port_is_named_before_anything_stops(box):
    stranger = box.world.foreign(port=9004, name="nginx")
    with pytest.raises(Failed, match=f"port 9004 of late is taken by nginx .pid {stranger.pid}"):
        box.switch("new")
    assert box.acts == []
    assert box.world.strangers == [stranger]


def test_a_stranger_on_the_port_of_a_service_that_crashed(box):
    box.world.crash("gone")
    box.world.foreign(port=9001, name="nginx")
    with pytest.raises(Failed) as refused:
        box.switch("old")
    assert refused.value.code == "port-taken"
    assert box.acts == []


def test_a_stranger_who_takes_the_port_in_the_last_moment(box):
    box.when("stop gone sent", lambda: box.world.foreign(port=9003, name="nginx"))
    outcome = box.switch("new")
    assert outcome.error.code == "port-taken"
    check_rolled_back(box, outcome)
    assert [stranger.name for stranger in box.world.strangers] == ["nginx"]


def test_a_game_that_takes_the_memory_is_named(box):
    box.when("stop gone sent", lambda: box.world.foreign(3800, name="game"))
    outcome = box.switch("new")
    assert outcome.error.code == "memory-taken"
    assert "process game (pid" in outcome.error.why
    check_rolled_back(box, outcome)


def test_a_stranger_who_was_there_and_takes_more_is_named(box):
    game, idle = box.world.foreign(100, name="game"), box.world.foreign(100, name="idle")

    def take() -> None:
        game.mb = 3800

    box.when("stop gone sent", take)
    outcome = box.switch("new")
    assert outcome.error.code == "memory-taken"
    assert f"process game (pid {game.pid}) with 3800 MiB" in outcome.error.why
    assert f"(pid {idle.pid})" not in outcome.error.why
    check_rolled_back(box, outcome)


def test_a_rollback_that_fails_ends_half_way_and_names_both(box):
    box.when("stop gone sent", lambda: box.world.foreign(6500, name="game"))
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code) == (RunStatus.HALF_WAY, 7)
    assert outcome.error.code == "memory-taken"
    assert "process game" in outcome.error.why
    assert "the way back failed" in outcome.error.why
    assert outcome.error.details["rollback"]["code"] in ("out-of-memory", "wake-failed")
    with pytest.raises(HalfWay):
        box.switch("new")
    box.world.strangers.clear()
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


# --- interrupts -----------------------------------------------------------------------------------------------------

POINTS = ["stop gone sent", "sleep nap sent", "start come after", "start late before", "write delete_handle before"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_first_interrupt_turns_back(box, point, number):
    box.when(point, lambda: interrupt(number))
    outcome = box.switch("new")
    assert outcome.error.code == "interrupted"
    check_rolled_back(box, outcome)


@pytest.mark.parametrize("second", ["start gone before", "start gone after"])
def test_the_second_interrupt_leaves_it(box, second):
    box.when("start come after", interrupt)
    box.when(second, interrupt)
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code) == (RunStatus.HALF_WAY, 7)
    assert box.recover("resume").exit_code == 0
    assert box.world.states() == NEW
    box.check_sound()


def test_two_interrupts_at_once(box):
    def twice():
        interrupt()
        box.when("stop gone after", interrupt)

    box.when("stop gone sent", twice)
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code) == (RunStatus.HALF_WAY, 7)
    assert "start gone before" not in box.acts
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD


def test_a_lost_terminal_changes_nothing(box):
    box.when("stop gone sent", lambda: signal.raise_signal(signal.SIGHUP))
    assert box.switch("new").exit_code == 0
    assert box.world.states() == NEW


# --- what the user decides, and what is not to be lost ----------------------------------------------------------------


def test_no_rollback_leaves_it_and_recover_goes_on(box):
    box.world.fault("late", "oom-at-start")
    outcome = box.switch("new", rollback=False)
    assert (outcome.status, outcome.exit_code, outcome.error.code) == (RunStatus.HALF_WAY, 7, "out-of-memory")
    assert box.world.states() == {service: state for service, state in NEW.items() if service != "late"}
    assert box.recover("resume").exit_code == 7
    box.world.faults.clear()
    come = box.world.alive()["come"].pid
    assert box.recover("resume").exit_code == 0
    assert box.world.states() == NEW
    assert box.world.alive()["come"].pid == come
    assert box.store.current_mode() == "new"
    box.check_sound()


def test_what_was_started_by_hand_and_an_edited_mode_survive(box):
    box.define(world_service("hand", 500, 9010))
    box.start("hand")
    edited = world_mode("old", "keep")
    box.define(edited)
    box.world.fault("come", "oom-at-start")
    outcome = box.switch("new")
    assert outcome.exit_code == 6
    assert box.world.states() == {**OLD, "hand": "ready"}
    assert box.store.modes()["old"] == edited


def test_a_changed_definition_that_does_not_work_comes_back_as_it_was(box):
    before = box.store.handles()["gone"].launched
    edited = world_service("gone", 6500, 9001, uses_mb=TOTAL_MB)
    box.define(edited)
    outcome = box.start("gone", restart=True)
    assert outcome.error.code == "out-of-memory"
    check_rolled_back(box, outcome)
    assert box.store.handles()["gone"].launched == before
    assert box.store.services()["gone"] == edited


def test_a_changed_definition_that_works_is_used(box):
    edited = world_service("gone", 6500, 9020)
    box.define(edited)
    assert box.start("gone", restart=True).exit_code == 0
    assert box.store.handles()["gone"].launched == edited
    assert box.world.managed_mb()["gone"] == 6500


def test_a_service_that_crashed_is_started_again_by_the_same_switch(box):
    box.world.crash("gone", 5)
    assert box.states()["gone"] == "failed"
    assert box.observe().services["gone"].detail == "it exited with code 5"
    assert box.switch("old").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


def test_a_host_that_crashed_leaves_no_member_behind(box):
    box.define(world_service("rerank", 1000, host="router", sleep_mode="unload"), world_mode("ranked", "rerank"))
    assert box.switch("hosted").exit_code == 0
    box.world.crash("router")
    assert box.switch("ranked").exit_code == 0
    assert set(box.world.alive()["router"].members) == {"rerank"}


# --- refused before the first act -------------------------------------------------------------------------------------


def test_options_that_the_driver_does_not_know(box):
    come = next(service for service in SERVICES if service.id == "come")
    box.define(come.model_copy(update={"unit_vars": {"lood_s": 3}}))
    with pytest.raises(UsageError, match="come cannot be started"):
        box.switch("new")
    assert box.acts == []
