"""A full disk: refused before the first act where it is known, turned back where there is room again, never lost."""

from __future__ import annotations

import pytest

from gpumod.domain.errors import HalfWay, MachineLacks
from gpumod.domain.run import RunStatus
from gpumod.testing.world_drivers import world_mode, world_service

DEFINED = (
    world_service("gone", 6000, 9001, load_s=0.2),
    world_service("come", 9000, 9003, load_s=0.2),
    world_mode("old", "gone"),
    world_mode("new", "come"),
)
OLD = {"gone": "ready"}


@pytest.fixture
def box(make_box):
    box = make_box(10_000, define=DEFINED)
    assert box.switch("old").exit_code == 0
    box.acts.clear()
    return box


def test_a_full_disk(box):
    box.world.free_disk_mb = 10
    with pytest.raises(MachineLacks, match="is nearly full"):
        box.switch("new")
    assert box.acts == []


def full():
    raise MachineLacks("disk-full", "the disk is full", hint="make room")


def test_a_disk_that_is_full_for_a_moment_turns_it_back(box):
    box.when("write delete_handle before", lambda: box.when("write update_step before", full))
    outcome = box.switch("new")
    assert outcome.error.code == "disk-full"
    assert (outcome.status, outcome.exit_code) == (RunStatus.ROLLED_BACK, 6)
    assert box.world.states() == OLD
    assert box.store.open_run() is None
    box.check_sound()


def test_a_disk_that_stays_full_leaves_it_half_way(box):
    def fill():
        box.every = lambda label: full() if label.startswith("write") else None

    box.when("start come after", fill)
    with pytest.raises(HalfWay, match="its journal could not be written"):
        box.switch("new")
    box.every = lambda _: None
    assert box.world.holder is None
    assert box.recover("rollback").exit_code == 0
    assert box.world.states() == OLD
    box.check_sound()
