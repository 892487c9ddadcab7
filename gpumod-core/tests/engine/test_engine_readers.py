"""Who reads the progress of a run may go away at any moment: a closed pipe or terminal ends nothing but the reading."""

from __future__ import annotations

import pytest

from gpumod.testing.world_drivers import world_mode, world_service

pytestmark = pytest.mark.slow

QUICK = {"load_s": 0.1, "stop_s": 0.03}
GONE = world_service("gone", 6000, 9000, **QUICK)
COME = world_service("come", 5000, 9001, **QUICK)


class Leaves(list):
    """A reader that goes away at the `last` report; `late` says how often it was told something after that."""

    def __init__(self, last, error):
        self.last, self.error, self.late = last, error, 0

    def append(self, news):
        if len(self) == self.last:
            self.late += 1
            raise self.error
        super().append(news)


@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError("a view")])
def test_whatever_a_view_does_ends_the_reading_only(box, error):
    box.told = Leaves(2, error)
    assert box.switch("new").exit_code == 0


@pytest.fixture
def box(make_box):
    box = make_box(9000, define=[GONE, COME, world_mode("old", "gone"), world_mode("new", "come")])
    box.world.lag_s = 0.05
    assert box.switch("old").exit_code == 0
    box.told.clear()
    return box


def test_at_every_report_of_a_run_that_goes_well(box):
    assert box.switch("new").exit_code == 0
    reports = len(box.told)
    assert reports > 8
    for last in range(reports):
        assert box.switch("old").exit_code == 0
        box.told = Leaves(last, BrokenPipeError(32, "Broken pipe"))
        outcome = box.switch("new")
        assert (outcome.exit_code, outcome.status.value, outcome.error) == (0, "done", None), last
        assert box.world.states() == {"come": "ready"}
        assert (len(box.told), box.told.late) == (last, 1)
    box.check_sound()


def test_at_every_report_of_a_run_that_turns_back(box):
    box.world.fault("come", "die-after", 0.05)
    assert box.switch("new").exit_code == 6
    reports = len(box.told)
    for last in range(reports):
        box.told = Leaves(last, ValueError("I/O operation on closed file"))
        outcome = box.switch("new")
        assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting"), last
        assert box.world.states() == {"gone": "ready"}
    box.check_sound()


@pytest.mark.parametrize("way", ["resume", "rollback"])
def test_at_every_report_of_a_recovery(box, way):
    box.world.fault("come", "die-after", 0.05)
    assert box.switch("new", rollback=False).exit_code == 7
    box.world.faults.clear()
    undisturbed = box.copy("undisturbed")
    assert undisturbed.recover(way).exit_code == 0
    for last in range(len(undisturbed.told)):
        left = box.copy(f"{last}")
        left.told = Leaves(last, BrokenPipeError(32, "Broken pipe"))
        assert left.recover(way).exit_code == 0, last
        assert left.world.states() == undisturbed.world.states()
        left.close()
    undisturbed.close()
