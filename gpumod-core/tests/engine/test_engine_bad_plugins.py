"""A driver that breaks or hangs costs nobody but its own service: the rest is seen, changed and recovered."""

from __future__ import annotations

import pytest

from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import StepStatus
from gpumod.domain.states import State
from gpumod.testing.world_drivers import world_mode, world_service
from gpumod.testing.world_odd import Oddity, odd_offers

pytestmark = pytest.mark.slow

SERVICES = (
    world_service("odd", 2000, 9000, driver="odd", naps=True),
    world_service("host", 0, 9001, driver="odd-host"),
    world_service("guest", 1000, host="host", sleep_mode="unload"),
    world_service("chat", 3000, 9002, naps=True),
    world_service("next", 3000, 9003),
)
UP = {"chat": "ready", "guest": "ready", "host": "ready", "odd": "ready"}
METHODS = ["capabilities", "launch", "members", "probe", "residue_mb", "variants"]


def breaks(oddity, method):
    oddity.raises[method] = TypeError("a stranger's bug")


def hangs(oddity, method):
    oddity.hangs.add(method)


BAD = [pytest.param(breaks, method, id=f"{method} breaks") for method in METHODS]
BAD += [pytest.param(hangs, method, id=f"{method} hangs") for method in ("probe", "members")]


@pytest.fixture
def oddity():
    return Oddity()


@pytest.fixture
def box(make_box, oddity):
    box = make_box(24_000)
    box.offers = odd_offers(oddity)
    box.define(*SERVICES, world_mode("up", "odd", "guest", "chat"))
    assert box.switch("up").exit_code == 0
    box.acts.clear()
    return box


def pids(box):
    return {service: proc.pid for service, proc in box.world.alive().items()}


@pytest.mark.parametrize(("how", "text"), [(breaks, "TypeError: a stranger's bug"), (hangs, "no answer in 5 s")])
def test_it_reads_unhealthy_with_the_reason(box, oddity, how, text):
    how(oddity, "probe")
    began = box.world.clock.time_s
    snapshot = box.observe()
    assert box.world.clock.time_s - began < 6
    assert snapshot.reading("odd").state is State.UNHEALTHY
    assert text in snapshot.reading("odd").detail
    assert snapshot.reading("odd").vram_mb == {0: 2000}
    others = {service: str(r.state) for service, r in snapshot.services.items() if service != "odd"}
    assert others == dict.fromkeys(["chat", "guest", "host"], "running")


@pytest.mark.parametrize(("how", "method"), BAD)
def test_others_are_changed_and_brought_back_and_it_can_be_stopped(box, oddity, how, method):
    how(oddity, method)
    assert box.observe().reading("chat").state is State.RUNNING
    before = pids(box)
    assert box.start("next").exit_code == 0
    assert box.stop("chat").exit_code == 0
    box.world.fault("chat", "die-after", 1.0)
    assert box.start("chat").exit_code == 6
    assert box.start("chat", rollback=False).exit_code == 7
    assert box.recover("rollback").exit_code == 0
    assert box.start("chat", rollback=False).exit_code == 7
    box.world.faults.clear()
    assert box.recover("resume").exit_code == 0
    after = pids(box)
    assert box.world.states() == {**UP, "next": "ready"}
    assert {service: after[service] for service in ("odd", "host", "guest")} == {
        service: before[service] for service in ("odd", "host", "guest")
    }
    outcome = box.change("stop all", Target())
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert box.world.states() == {}
    box.check_sound()


def test_a_sleep_that_breaks_turns_the_run_back(box, oddity):
    oddity.raises["sleep"] = ValueError("no such level")
    before = pids(box)
    members = (TargetMember(service="odd", want="asleep"), TargetMember(service="chat", want="asleep"))
    outcome = box.change("sleep", Target(members=members, stop_others=False))
    assert (outcome.exit_code, outcome.error.code) == (6, "plugin-broken")
    assert "the sleep level 'nap' of gpumod-core is broken: sleep: ValueError: no such level" in outcome.error.message
    assert (box.world.states(), pids(box)) == (UP, before)
    box.check_sound()


def test_a_load_that_breaks_turns_the_run_back(box, oddity):
    box.define(world_service("second", 1000, host="host", sleep_mode="unload"))
    before = pids(box)
    oddity.raises["load"] = ValueError("no such model")
    outcome = box.start("second")
    assert (outcome.exit_code, outcome.error.code) == (6, "plugin-broken")
    assert "the driver 'odd-host' of gpumod-core is broken: load: ValueError: no such model" in outcome.error.message
    assert (box.world.states(), pids(box)) == (UP, before)
    box.check_sound()


def test_a_sleep_that_never_returns_is_given_up(box, oddity):
    hangs(oddity, "sleep")
    before = pids(box)
    outcome = box.start("odd", want="asleep")
    assert (outcome.exit_code, outcome.error.code) == (6, "sleep-timeout")
    assert outcome.error.message == "odd did not sleep within 900 s"
    assert outcome.error.why == "the driver odd did not return"
    assert box.world.states() == UP
    after = pids(box)
    assert {service for service in UP if after[service] != before[service]} == {"odd"}  # it could sleep at any moment
    box.check_sound()


def test_a_wake_that_never_returns_is_given_up(box, oddity):
    box.settings["driver_timeout_s"] = 700
    assert box.start("odd", want="asleep").exit_code == 0
    hangs(oddity, "wake")
    for options, seconds in (({}, 700), ({"timeout_s": 3.0}, 8)):
        outcome = box.start("odd", **options)
        assert (outcome.exit_code, outcome.error.code) == (6, "wake-timeout")
        assert outcome.error.message == f"odd did not wake within {seconds} s"
        assert box.world.states() == UP | {"odd": "asleep"}
        box.check_sound()


def test_a_load_that_never_returns_is_given_up(box, oddity):
    box.define(world_service("second", 1000, host="host", sleep_mode="unload", startup_timeout=60))
    before = pids(box)
    hangs(oddity, "load")
    outcome = box.start("second")
    assert (outcome.exit_code, outcome.error.code) == (6, "load-timeout")
    assert outcome.error.message == "second did not load within 65 s"
    assert (box.world.states(), pids(box)) == (UP, before)
    box.check_sound()


def test_an_unload_that_never_returns_is_given_up_and_its_host_can_be_stopped(box, oddity):
    box.define(world_service("second", 1000, host="host", sleep_mode="unload"))
    assert box.start("second").exit_code == 0
    hangs(oddity, "unload")
    before = pids(box)
    outcome = box.stop("guest")
    assert (outcome.exit_code, outcome.error.code) == (6, "unload-timeout")
    assert (box.world.states(), pids(box)) == (UP | {"second": "ready"}, before)
    outcome = box.change("stop all", Target())
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert "it ends with host" in next(step.detail for step in outcome.run.steps if step.step.service == "guest")
    assert (box.world.states(), box.world.unattributed_mb()) == ({}, 0)
    box.check_sound()


def test_a_sleep_that_breaks_once_more_does_not_hinder_the_way_back(box, oddity):
    """gpumod is killed while it asks for a sleep, and asks once more when it recovers."""
    oddity.raises["sleep"] = ValueError("no such level")
    copies = []

    def keep_one(_):
        run = box.store.open_run()
        if not copies and run and run.steps[0].status is StepStatus.RUNNING:
            copies.append(box.copy("killed"))

    box.every = keep_one
    box.change("sleep", Target(members=(TargetMember(service="odd", want="asleep"),), stop_others=False))
    left = copies[0]
    left.offers = box.offers
    assert left.recover("rollback").exit_code == 0
    assert left.world.states() == UP
    left.close()


def test_a_service_that_does_not_answer_is_no_bug_of_gpumod(box):
    box.when("sleep chat after", lambda: box.world.fault("chat", "hang"))
    box.when("stop chat before", box.world.faults.clear)
    member = TargetMember(service="chat", want="asleep")
    outcome = box.change("sleep chat", Target(members=(member,), stop_others=False))
    assert (outcome.exit_code, outcome.error.code) == (6, "not-answering")
    assert outcome.error.message == "chat did not answer when it was to sleep"
    assert "no answer" in outcome.error.why
    assert box.world.states() == UP
    box.check_sound()
