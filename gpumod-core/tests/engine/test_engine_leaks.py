"""Memory that nobody holds after a service ended: told once, of the right one, and counted as not ours from then on."""

from __future__ import annotations

import pytest

from gpumod.engine.unattributed import Unattributed
from gpumod.testing.world_drivers import world_mode, world_service

RELEASE_S = 10.0


def remarks(outcome):
    """What each step of the run had to say."""
    return {step.step.service: step.detail for step in outcome.run.steps if step.detail}


def took_s(outcome):
    return outcome.run.ended_at - outcome.run.started_at


def test_later_stops_neither_wait_for_it_nor_tell_it(make_box):
    chain = [
        world_service("first", 4000, 9001, depends_on=("second",)),
        world_service("second", 4000, 9002, depends_on=("third",)),
        world_service("third", 4000, 9003),
    ]
    box = make_box(24_000, define=[*chain, world_mode("on", "first"), world_mode("off")])
    assert box.switch("on").exit_code == 0
    box.world.fault("first", "leak", 3000)
    outcome = box.switch("off")
    assert outcome.exit_code == 0
    assert remarks(outcome) == {"first": "unattributed 3000 MiB on GPU 0 did not come back"}
    assert took_s(outcome) < RELEASE_S + 4
    box.check_sound(leak_mb=3000)


def test_a_second_one_in_the_same_run_is_told_of_its_own(make_box):
    chain = [world_service("first", 4000, 9001, depends_on=("second",)), world_service("second", 4000, 9002)]
    box = make_box(24_000, define=[*chain, world_mode("on", "first"), world_mode("off")])
    box.switch("on")
    box.world.fault("first", "leak", 3000)
    box.world.fault("second", "leak", 500)
    assert remarks(box.switch("off")) == {
        "first": "unattributed 3000 MiB on GPU 0 did not come back",
        "second": "unattributed 500 MiB on GPU 0 did not come back",
    }


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"a": 1000, "b": 6000}, {"b": "unattributed 3000 MiB on GPU 0 did not come back"}),
        ({"a": 6000, "b": 6000}, {"a": "unattributed 3000 MiB on GPU 0 did not come back (left by a or b)"}),
    ],
)
def test_of_two_that_end_at_once_the_one_is_told_that_can_have_left_it(make_box, sizes, told):
    services = [world_service(name, mb, 9001 + n) for n, (name, mb) in enumerate(sizes.items())]
    box = make_box(24_000, define=[*services, world_mode("on", *sizes), world_mode("off")])
    box.switch("on")
    box.world.fault("b", "leak", 3000)
    outcome = box.switch("off")
    assert outcome.exit_code == 0
    assert remarks(outcome) == told
    assert took_s(outcome) < RELEASE_S + 2


def test_one_that_ends_while_it_is_waited_for_is_not_suspected(make_box):
    services = [
        world_service("leaks", 4000, 9001),
        world_service("slow", 100, 9002, stop_s=4.0, depends_on=("later",)),
        world_service("later", 4000, 9003),
    ]
    box = make_box(24_000, define=[*services, world_mode("on", "leaks", "slow"), world_mode("off")])
    box.switch("on")
    box.world.fault("leaks", "leak", 3000)
    outcome = box.switch("off")
    assert remarks(outcome) == {"leaks": "unattributed 3000 MiB on GPU 0 did not come back"}
    assert took_s(outcome) < RELEASE_S + 2


def test_one_that_is_in_the_way_fails_the_step_whose_service_left_it_alone(make_box):
    services = [world_service("a", 1000, 9001), world_service("b", 6000, 9002), world_service("come", 7000, 9003)]
    box = make_box(9000, define=[*services, world_mode("old", "a", "b"), world_mode("new", "come")])
    box.switch("old")
    box.world.fault("b", "leak", 3000)
    outcome = box.switch("new", rollback=False)
    assert (outcome.error.code, outcome.error.details["service"]) == ("memory-not-released", "b")
    assert outcome.error.why == "unattributed 3000 MiB on GPU 0 still in use"
    failed = [step.step.service for step in outcome.run.steps if step.error]
    assert failed == ["b"]


def test_it_is_not_taken_for_the_memory_of_a_service_that_fell_back_to_the_cpu(make_box):
    services = [world_service("gone", 6000, 9001), world_service("come", 9000, 9002)]
    box = make_box(13_000, define=[*services, world_mode("old", "gone"), world_mode("new", "come")])
    box.switch("old")
    box.world.fault("gone", "leak", 3000)
    box.world.fault("come", "cpu-fallback")
    outcome = box.switch("new")
    assert (outcome.exit_code, outcome.error.code) == (6, "cpu-fallback")


def test_a_start_that_is_tried_again_does_not_wait_for_it(make_box):
    services = [world_service("gone", 6000, 9001), world_service("come", 9000, 9002)]
    box = make_box(13_000, define=[*services, world_mode("old", "gone"), world_mode("new", "come")])
    box.switch("old")
    box.world.fault("gone", "leak", 3000)
    box.world.fault("come", "oom-at-start")
    stopped = []
    box.when("stop come before", lambda: (box.world.faults.pop("come"), stopped.append(box.world.clock.time_s)))
    started = []
    box.when("start come after", lambda: box.when("start come after", lambda: started.append(box.world.clock.time_s)))
    assert box.switch("new").exit_code == 0
    assert started[0] - stopped[0] < 1.0


def test_what_comes_back_after_all_is_waited_for_again():
    account = Unattributed({0: 200})
    account.lose({0: 3000})
    assert account.known_mb(0) == 3200
    account.see((), {0: 0}, {}, 1.0)
    assert account.lost_mb == {0: 3000}
    account.see((), {0: -2500}, {}, 2.0)
    account.see((), {0: -2300}, {}, 3.0)
    assert account.lost_mb == {0: 3000}
    account.see((), {0: -2300}, {}, 4.0)
    assert account.lost_mb == {0: 700}
    assert account.known_mb(0) == 900


def test_a_look_that_meets_a_process_before_its_memory_is_no_return():
    account = Unattributed({0: 0})
    account.lose({0: 3000})
    for now_s, more_mb in enumerate((-1800, 0, -1800, 0, -1800, 0)):
        account.see((), {0: more_mb}, {}, float(now_s))
    assert account.lost_mb == {0: 3000}
