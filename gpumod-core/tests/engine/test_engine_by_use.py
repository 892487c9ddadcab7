"""A service that loads by use: nothing but its memory tells whether it sleeps."""

from __future__ import annotations

import pytest

from gpumod.testing.world_drivers import world_mode, world_service


@pytest.fixture
def box(make_box):
    lazy = world_service("lazy", 4000, 9000, sleep_mode="nap", by_use=True, residue_mb=300)
    other = world_service("other", 5000, 9001)
    modes = world_mode("day", "lazy"), world_mode("night", "other", "lazy:asleep")
    return make_box(8000, define=(lazy, other, *modes))


def test_it_is_ready_without_memory(make_box):
    lazy = world_service("lazy", 4000, 9000, by_use=True, uses_mb=0)
    box = make_box(8000, define=(lazy, world_service("plain", 3000, 9001, uses_mb=0)))
    assert box.start("lazy").exit_code == 0
    assert box.states() == {"lazy": "running"}
    assert box.start("plain").error.code == "cpu-fallback", "one that is not such a service"
    box.check_sound()


def test_it_sleeps_as_long_as_it_holds_no_more(box):
    assert box.switch("day").exit_code == 0
    assert box.switch("night").exit_code == 0
    assert box.states() == {"lazy": "sleeping", "other": "running"}
    proc = box.world.alive()["lazy"]
    box.world.hold(proc, 2500)
    assert box.states()["lazy"] == "running", "somebody used it"
    box.world.hold(proc, 300)
    assert box.states()["lazy"] == "sleeping"
    assert box.switch("day").exit_code == 0
    assert box.states() == {"lazy": "running"}
    box.world.hold(proc, 300)
    assert box.states() == {"lazy": "running"}, "it was woken: what it holds now says nothing"
    assert box.world.alive()["lazy"] is proc
    box.check_sound()
