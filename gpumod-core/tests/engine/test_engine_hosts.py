"""A host that hangs tells nothing of its members: that is not the same as having none, and hinders nobody."""

from __future__ import annotations

import pytest

from gpumod.domain.run import StepStatus
from gpumod.domain.states import State
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (
    world_service("router", 0, 9000, driver="world-host"),
    world_service("hyde", 2000, host="router", sleep_mode="unload"),
    world_service("rerank", 3000, host="router", sleep_mode="unload"),
    world_service("chat", 4000, 9001),
)
MODES = (world_mode("hosted", "hyde", "rerank:asleep"), world_mode("talk", "chat"), world_mode("blank"))
HOSTED = {"hyde": "running", "rerank": "sleeping", "router": "running"}


@pytest.fixture
def box(make_box):
    box = make_box(16_000, define=[*SERVICES, *MODES])
    assert box.switch("hosted").exit_code == 0
    box.world.fault("router", "hang")
    box.acts.clear()
    return box


def test_everything_stops(box):
    outcome = box.switch("blank")
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert box.world.states() == {}
    assert box.store.current_mode() == "blank"
    told = {step.step.service: step.detail for step in outcome.run.steps}
    for member in ("hyde", "rerank"):
        assert "router did not let go of it" in told[member]
        assert "it ends with router" in told[member]
    assert {step.status for step in outcome.run.steps} == {StepStatus.DONE}
    box.check_sound()


def test_its_members_are_unknown_and_their_memory_counts_once(box):
    began = box.world.clock.time_s
    snapshot = box.observe()
    assert box.world.clock.time_s - began < 11
    assert snapshot.reading("router").state is State.UNHEALTHY
    assert "no answer" in snapshot.reading("router").detail
    for member in ("hyde", "rerank"):
        reading = snapshot.reading(member)
        assert (reading.state, reading.pid, dict(reading.vram_mb)) == (State.UNKNOWN, None, {})
    assert snapshot.managed_mb(0) == snapshot.reading("router").vram_mb[0] == box.world.used_mb() == 2000
    assert snapshot.foreign_mb(0) == 0


def test_a_member_that_could_not_be_asked_comes_back_awake(box):
    box.world.fault("chat", "die-after", 1.0)
    box.when("start chat after", lambda: box.world.faults.pop("router"))
    outcome = box.switch("talk")
    assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting")
    assert box.states()["hyde"] == "running"
    assert box.world.alive()["hyde"].state == "ready"
    assert box.store.current_mode() == "hosted"
    box.check_sound()


def test_it_is_left_alone_by_the_way_back_of_others(box):
    pids = {service: proc.pid for service, proc in box.world.alive().items()}
    box.world.fault("chat", "die-after", 1.0)
    assert box.start("chat").exit_code == 6
    assert {service: proc.pid for service, proc in box.world.alive().items()} == pids
    assert not [act for act in box.acts if act.startswith(("stop router", "stop hyde", "load", "unload", "reload"))]
    box.world.faults.clear()
    assert box.states() == HOSTED


def test_one_of_its_members_alone_cannot_be_stopped(box):
    outcome = box.stop("hyde")
    assert (outcome.exit_code, outcome.error.code) == (6, "not-answering")
    assert "stop" in outcome.error.message
    box.world.faults.clear()
    assert box.states() == HOSTED
    box.check_sound()
