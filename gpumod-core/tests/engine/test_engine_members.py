"""Members and the end of their host: who is to blame, what goes with it, and what stays."""

from __future__ import annotations

import pytest

from gpumod.testing.world_drivers import world_service

SERVICES = (
    world_service("router", 0, 9000, driver="world-host"),
    world_service("one", 2000, host="router", sleep_mode="unload"),
)


@pytest.fixture
def box(make_box):
    box = make_box(8000, define=SERVICES)
    assert box.start("router").exit_code == 0
    return box


def test_a_host_that_was_up_stays_when_the_start_of_its_only_member_fails(box):
    pid = box.world.alive()["router"].pid
    box.world.fault("one", "oom-at-start")
    outcome = box.start("one")
    assert (outcome.exit_code, outcome.error.code) == (6, "out-of-memory")
    assert box.states() == {"router": "running"}
    assert box.world.alive()["router"].pid == pid
    box.check_sound()


def test_a_host_that_was_not_up_goes_with_it(make_box):
    box = make_box(8000, define=SERVICES)
    box.world.fault("one", "oom-at-start")
    assert box.start("one").exit_code == 6
    assert box.states() == {}
    box.check_sound()


def test_a_host_that_ends_while_it_loads_is_named(box):
    box.when("load one after", lambda: box.world.crash("router", 3))
    outcome = box.start("one")
    assert (outcome.exit_code, outcome.error.code) == (6, "host-ended")
    assert outcome.error.message == "router, the host of one, ended when one was to start"
    assert (outcome.error.details["service"], outcome.error.details["exit_code"]) == ("router", 3)
    assert box.states() == {"router": "running"}  # it came back
    box.check_sound()


def test_a_member_that_failed_is_cleared_when_its_host_is_stopped(box):
    assert box.start("one").exit_code == 0
    box.world.crash("router")
    assert box.states() == {"one": "failed", "router": "failed"}
    assert box.stop("router").exit_code == 0
    assert box.states() == {}
    box.check_sound()


@pytest.mark.parametrize("ends", [True, False], ids=["ends with it", "goes on"])
def test_what_a_member_left_behind_is_waited_for_at_the_end_of_its_host(box, ends):
    assert box.start("one").exit_code == 0
    left = box.world.alive()["one"]
    box.world.fault("one", "sleep-frees-nothing")
    if ends:
        box.when("stop router after", lambda: box.world.kill(left, -9))
    outcome = box.stop("one")  # the last member: its host stops too
    if ends:
        assert (outcome.exit_code, outcome.error) == (0, None)
        assert "it ends with router" in next(s.detail for s in outcome.run.steps if s.step.service == "one")
        box.settled()
        assert (box.states(), box.world.used_mb()) == ({}, 0)
    else:
        assert (outcome.exit_code, outcome.error.code) == (6, "memory-not-released")
        assert outcome.error.why == f"process one (pid {left.pid}) with 2000 MiB still in use"
        box.world.kill(left, 0)
        assert box.states() == {"one": "running", "router": "running"}
    kinds = {kind: value for (service, _), kinds in box.store.samples().items() if service == "router"
             for kind, value in kinds.items()}  # fmt: skip
    assert "settled_mb" not in kinds  # what its member left is not the host's own
    box.check_sound()
