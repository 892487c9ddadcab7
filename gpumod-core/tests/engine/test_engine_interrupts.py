"""One signal turns a run back, or stops it before it began; a second one leaves things as they are."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from gpumod.cli.foreground import unhurried
from gpumod.domain.errors import Interrupted
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import RunStatus
from gpumod.engine.change import change
from gpumod.engine.interrupts import listening
from gpumod.engine.planning import Options, Wanted
from gpumod.testing.signals import interrupt
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (
    world_service("gone", 6000, 9000, load_s=0.2),
    world_service("nap", 2000, 9001, naps=True, load_s=0.2),
    world_service("come", 5000, 9002),
)
OLD = {"gone": "ready", "nap": "ready"}
NEW = {"come": "ready", "nap": "asleep"}
BACK = ["start gone after", "wake nap sent", "write finish_run before"]


@pytest.fixture
def box(make_box):
    box = make_box(9000, define=[*SERVICES, world_mode("old", "gone", "nap"), world_mode("new", "come", "nap:asleep")])
    assert box.switch("old").exit_code == 0
    box.acts.clear()
    return box


@pytest.mark.parametrize("point", BACK)
def test_one_on_the_way_back_changes_nothing(box, point):
    box.world.fault("come", "die-after", 1.0)
    box.when("start come after", lambda: box.when(point, interrupt))
    outcome = box.switch("new")
    assert point not in box.hooks
    assert (outcome.status, outcome.exit_code) == (RunStatus.ROLLED_BACK, 6)
    assert outcome.error.code == "died-while-starting"
    assert box.world.states() == OLD
    assert box.store.open_run() is None
    box.check_sound()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_at_the_very_end_turns_nothing_back_and_is_not_lost(box, number):
    """`gpumod watch` ends with it, though what it was at was done all the same."""
    box.when("write finish_run before", lambda: interrupt(number))
    with unhurried() as heard:
        outcome = box.switch("new")
    assert (outcome.status, box.world.states(), heard) == (RunStatus.DONE, NEW, [number])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_told_twice_is_one(box, number):
    """As `timeout` does it: its child is given the signal, and so is the group that the child is in."""
    box.when("start come before", lambda: (interrupt(number), signal.raise_signal(number)))
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code) == (RunStatus.ROLLED_BACK, 6)
    assert box.world.states() == OLD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_on_the_way_back_leaves_it(box, number):
    box.world.fault("come", "die-after", 1.0)
    box.when("start gone before", interrupt)
    box.when("start gone after", lambda: interrupt(number))
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code) == (RunStatus.HALF_WAY, 7)
    assert outcome.error.code == "died-while-starting"
    assert outcome.error.details["rollback"]["code"] == "interrupted"
    assert box.store.open_run().id == outcome.run.id
    box.world.faults.clear()
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


def test_what_two_of_them_left_is_closed_by_recover_and_that_is_the_hint(box):
    box.when("start come after", lambda: (interrupt(), interrupt()))
    outcome = box.switch("new")
    assert (outcome.status, outcome.error.code) == (RunStatus.HALF_WAY, "interrupted")
    assert outcome.error.hint == "gpumod recover --resume (go on) or --rollback (back to what was there)"
    assert box.store.open_run().error.hint == outcome.error.hint
    box.when("start gone before", interrupt)
    left = box.recover("rollback")
    assert left.error.hint == outcome.error.hint
    assert box.recover("rollback").exit_code == 0
    box.when("start come after", interrupt)
    assert box.switch("new").error.hint == "run it again when it suits"


def test_a_failure_that_is_left_says_how_to_mend_and_how_to_close_it(box):
    box.world.fault("come", "die-after", 1.0)
    hint = box.switch("new", rollback=False).error.hint
    assert hint.startswith("see `gpumod service logs come`; then gpumod recover --resume")


def to_new(machine, then):
    target = Target(members=(TargetMember(service="come"), TargetMember(service="nap", want="asleep")))

    def build(_):
        then()
        return Wanted(target, machine.store.services())

    return change(machine, "switch new", build, Options(), lambda _: None)


async def while_it_looks(box, number):
    """A signal comes while the services are asked how they are."""
    changing = asyncio.create_task(to_new(box.machine(), lambda: None))
    await box.world.clock.sleep(0.0005)
    interrupt(number)
    return await changing


async def while_it_plans(box, number):
    return await to_new(box.machine(), lambda: interrupt(number))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", [while_it_looks, while_it_plans])
def test_one_before_the_first_step_changes_nothing(box, moment, number, status):
    runs = box.store.runs(9)
    with pytest.raises(Interrupted) as refused:
        box.world.clock.run(moment(box, number))
    assert (refused.value.code, refused.value.exit_code) == ("interrupted", status)
    assert refused.value.info.why == "nothing was changed"
    assert box.acts == []
    assert box.world.states() == OLD
    assert (box.store.runs(9), box.store.open_run(), box.world.holder) == (runs, None, None)
    assert box.switch("new").exit_code == 0


def test_the_first_one_leaves_a_way_back_that_was_asked_for(box):
    box.world.fault("come", "die-after", 1.0)
    assert box.switch("new", rollback=False).exit_code == 7
    box.when("start gone before", interrupt)
    outcome = box.recover("rollback")
    assert (outcome.status, outcome.exit_code) == (RunStatus.HALF_WAY, 7)
    assert box.store.open_run() is not None
    assert "gone" not in box.world.states() or box.world.states()["gone"] == "loading"
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


def test_the_first_one_leaves_a_resume_that_was_asked_for(box):
    box.world.fault("come", "die-after", 1.0)
    assert box.switch("new", rollback=False).exit_code == 7
    box.world.faults.clear()
    box.when("start come before", interrupt)
    assert box.recover("resume").exit_code == 7
    assert box.recover("resume").exit_code == 0
    assert box.world.states() == NEW
    box.check_sound()


# --- what hangs is not waited for -------------------------------------------------------------------------------------


def twice():
    interrupt()
    interrupt()


@pytest.mark.parametrize(
    ("act", "most_s", "status"), [(interrupt, 100, RunStatus.ROLLED_BACK), (twice, 1, RunStatus.HALF_WAY)]
)
def test_a_wake_that_takes_for_ever_is_given_up(make_box, act, most_s, status):
    nap = world_service("nap", 2000, 9001, naps=True, wake_s=500)
    box = make_box(9000, define=[nap, world_mode("up", "nap"), world_mode("down", "nap:asleep")])
    assert box.switch("down").exit_code == 0
    box.when("wake nap sent", act)
    began = box.world.clock.monotonic()
    outcome = box.switch("up")
    assert outcome.status is status
    assert box.world.clock.monotonic() - began < most_s
    if status is RunStatus.HALF_WAY:
        assert box.recover("rollback").exit_code == 0
    assert box.world.states() == {"nap": "asleep"}
    box.check_sound()


def test_a_sleep_that_hangs_is_left_by_the_second_one(box):
    box.world.fault("nap", "sleep-hangs")
    box.when("sleep nap before", twice)
    began = box.world.clock.monotonic()
    outcome = box.switch("new")
    assert (outcome.status, outcome.error.code) == (RunStatus.HALF_WAY, "interrupted")
    assert box.world.clock.monotonic() - began < 5
    box.world.faults.clear()
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


def test_a_way_back_that_hangs_is_left_by_the_second_one(box):
    box.world.fault("come", "die-after", 1.0)
    box.world.fault("nap", "sleep-hangs")
    outcome = box.switch("new", rollback=False)
    box.world.faults.clear()
    assert outcome.status is RunStatus.HALF_WAY
    box.when("start gone before", twice)
    began = box.world.clock.monotonic()
    assert box.recover("rollback").exit_code == 7
    assert box.world.clock.monotonic() - began < 10
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()


# --- a resume does what is left to be done ---------------------------------------------------------------------------


def test_what_was_restarted_already_is_not_restarted_again(box):
    """Killed at every write of a step, while two services restart with changed definitions."""
    members = (TargetMember(service="gone"), TargetMember(service="nap"))
    target = Target(members=members, stop_others=False, restart=("gone", "nap"))
    box.define(world_service("gone", 5500, 9010), world_service("nap", 2500, 9011, naps=True, load_s=4.0))
    before = {service: proc.pid for service, proc in box.world.alive().items()}
    points = []
    box.every = lambda act: points.append(box.copy(f"{len(points)}")) if act == "write update_step before" else None
    assert box.change("restart", target).exit_code == 0
    box.every = lambda _: None
    seen = set()
    for left in points:
        run = left.store.open_run()
        started = {s.step.service for s in run.steps if s.step.action == "start" and s.status == "done"}
        pids = {service: left.world.alive()[service].pid for service in started}
        assert left.recover("resume").exit_code == 0
        after = {service: proc.pid for service, proc in left.world.alive().items()}
        assert {service: after[service] for service in started} == pids
        assert not set(after.values()) & set(before.values())
        assert left.world.managed_mb() == {"gone": 5500, "nap": 2500}
        left.check_sound()
        left.close()
        seen.add(frozenset(started))
    assert seen == {frozenset(), frozenset({"gone"}), frozenset({"gone", "nap"})}


def test_a_restart_that_was_done_when_gpumod_was_killed(box):
    copies = []
    box.when("write finish_run before", lambda: copies.append(box.copy("cut")))
    old = box.world.alive()["gone"].pid
    assert box.start("gone", restart=True).exit_code == 0
    left = copies[0]
    new = left.world.alive()["gone"].pid
    assert new != old
    assert left.recover("resume").exit_code == 0
    assert left.world.alive()["gone"].pid == new
    left.close()


async def test_one_that_another_thread_is_given_is_heard_at_once():
    def elsewhere():
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    fd = signal.set_wakeup_fd(-1)
    try:
        with listening() as interrupts:
            began = time.monotonic()
            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.wait_for(interrupts.event.wait(), 20)
            thread.join()
        assert time.monotonic() - began < 10
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(fd)


async def test_whoever_is_woken_by_signals_already_stays_so():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    theirs = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(theirs)
    try:
        with listening() as interrupts:
            interrupt()
            await asyncio.wait_for(interrupts.event.wait(), 20)
            now = signal.set_wakeup_fd(theirs)
        assert now == theirs != -1
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


def test_one_that_is_ignored_stays_so(box):
    """A script's background job ignores SIGINT: the Ctrl-C is not meant for it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        box.when("start come after", interrupt)
        assert box.switch("new").exit_code == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert box.world.states() == NEW
