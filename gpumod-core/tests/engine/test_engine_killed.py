"""kill -9, enumerated: at every write and before, within and after every act, gpumod is gone; the next one mends it.

One undisturbed run is made. At each of its points the world and the database are copied: that is just what a kill
leaves there (no handler runs, no lock is held, the processes go on). From every copy a new gpumod starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpumod.domain.errors import HalfWay
from gpumod.domain.mode import Mode
from gpumod.domain.run import RunStatus
from gpumod.domain.service import Service
from gpumod.testing.world_drivers import world_mode, world_service

QUICK = {"load_s": 0.1, "stop_s": 0.03, "sleep_s": 0.03, "wake_s": 0.03}
SERVICES = (
    world_service("store", 500, 9000, **QUICK),
    world_service("front", 1000, 9001, depends_on=("store",), **QUICK),
    world_service("chat", 9000, 9002, naps=True, **QUICK),
    world_service("voice", 6000, 9003, naps=True, **QUICK),
    world_service("code", 12_000, 9004, **QUICK),
    world_service("router", 0, 9005, driver="world-host", **QUICK),
    world_service("hyde", 4000, host="router", sleep_mode="unload", **QUICK),
    world_service("rerank", 5000, host="router", sleep_mode="unload", **QUICK),
)


@dataclass(frozen=True)
class Story:
    """Modes to be in before, one after the other, and the mode whose switch is cut off."""

    before: tuple[Mode, ...]
    target: Mode
    edited: tuple[Service, ...] = field(default=())


STORIES = {
    "cold start with a host and a dependent": Story((), world_mode("cold", "front", "hyde")),
    "stop, sleep, wake and start": Story(
        (world_mode("talk", "chat", "voice:asleep", "code:asleep"),),
        world_mode("work", "chat:asleep", "voice", "store"),
    ),
    "members leave and come": Story(
        (world_mode("one", "hyde", "rerank:asleep"),), world_mode("two", "rerank@1", "chat")
    ),
    "everything ends": Story((world_mode("full", "front", "chat:asleep"),), world_mode("blank")),
}


def is_point(label: str) -> bool:
    """What is after an act is before the next one; between two measurements nothing differs that matters."""
    return not label.endswith(" after") and label != "write add_samples before"


@pytest.fixture
def cut(make_box) -> Callable[..., list]:
    def make(story: Story):
        """The points of the story's last switch, and the undisturbed end."""
        box = make_box(21_000, define=[*SERVICES, *story.before, story.target])
        box.world.lag_s = 0.05
        for mode in story.before:
            assert box.switch(mode.id).exit_code == 0
        box.settled()
        start = (box.world.states(), box.states(), box.store.current_mode())
        points = []
        box.every = lambda label: points.append((label, box.copy(f"{len(points)}"))) if is_point(label) else None
        assert box.switch(story.target.id).exit_code == 0
        box.every = lambda _: None
        box.check_sound()
        return points, start, (box.world.states(), box.states(), box.store.current_mode())

    return make


def ways() -> list[Any]:
    """Each story one way; the other way of each is slow."""
    both = ("resume", "rollback")
    return [
        pytest.param(name, way, id=f"{name}-{way}", marks=[pytest.mark.slow] if n + m else [])
        for n, name in enumerate(STORIES)
        for m, way in enumerate(both)
    ]


@pytest.mark.parametrize(("story", "way"), ways())
def test_killed_at_every_point(cut, story, way):
    points, start, end = cut(STORIES[story])
    assert len(points) > 15
    for label, box in points:
        run = box.store.open_run()
        if run is None:
            # The switch had not begun, or was done.
            assert (box.world.states(), box.states(), box.store.current_mode()) in (start, end), label
            box.close()
            continue
        with pytest.raises(HalfWay) as refused:
            box.switch(STORIES[story].target.id)
        assert refused.value.info.code == "interrupted-run"
        outcome = box.recover(way)
        wanted = end if way == "resume" else start
        done = RunStatus.DONE if way == "resume" else RunStatus.ROLLED_BACK
        assert (outcome.status, outcome.exit_code) == (done, 0), (label, outcome.error)
        box.check_sound()
        assert (box.world.states(), box.states(), box.store.current_mode()) == wanted, label
        assert box.store.open_run() is None
        assert box.recover(way) is None
        box.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["resume", "rollback"])
def test_a_recovery_that_is_killed_is_recovered(cut, way):
    """Half-way through the switch gpumod is killed, and the one that mends it is killed too."""
    points, start, end = cut(STORIES["stop, sleep, wake and start"])
    _, box = next((label, box) for label, box in points if label == "wake voice sent")
    again = []
    box.every = lambda label: again.append((label, box.copy(f"{len(again)}"))) if is_point(label) else None
    assert box.recover("rollback").exit_code == 0
    box.every = lambda _: None
    assert len(again) > 10
    for label, left in again:
        if left.store.open_run() is not None:
            assert left.recover(way).exit_code == 0, label
            wanted = end if way == "resume" else start
            assert (left.world.states(), left.states(), left.store.current_mode()) == wanted, label
        left.check_sound()
        left.close()
    for _, box in points:
        box.close()
