"""A member whose sleep has freed nothing, and which was stopped instead: as good as asleep, until it runs again."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.operations.params import ModeRef
from gpumod.operations.results import ModeStatusResult
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (
    world_service("base", 1000, 9100, load_s=0.1),
    world_service("lull", 2000, 9101, naps=True, depends_on=("base",), load_s=0.1),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(8000, define=[*SERVICES, world_mode("lulled", "lull:asleep")])
    box.world.fault("lull", "sleep-frees-nothing")
    assert box.switch("lulled").exit_code == 0
    return box


def told(box: Any) -> ModeStatusResult:
    status: ModeStatusResult = box.ask("mode_status", ModeRef(mode="lulled"))
    return status


def test_the_mode_is_whole_and_what_the_member_needs_is_part_of_it(box: Any) -> None:
    assert box.world.states() == {"base": "ready"}
    status = told(box)
    assert (status.whole, status.extra, status.notes) == (True, (), ())
    (lull,) = status.members
    assert (lull.ok, lull.wanted, lull.state) == (True, "asleep", "stopped")
    assert lull.detail.startswith("was stopped: its sleep at nap freed nothing")
    assert box.look().ok


def test_its_sleep_is_tried_again_by_a_switch(box: Any) -> None:
    assert box.switch("lulled").exit_code == 0
    assert told(box).whole
    box.world.faults.pop("lull")
    assert box.switch("lulled").exit_code == 0
    assert box.world.states() == {"base": "ready", "lull": "asleep"}
    assert told(box).whole


@pytest.mark.parametrize("back_s", [0.0, 7200.0], ids=["", "by a clock that was set back"])
def test_one_that_was_stopped_by_hand_since_then_is_missed(box: Any, back_s: float) -> None:
    box.world.clock.ahead_s -= back_s
    box.world.faults.pop("lull")
    assert box.start("lull").exit_code == 0
    assert box.stop("lull").exit_code == 0
    assert not told(box).whole
