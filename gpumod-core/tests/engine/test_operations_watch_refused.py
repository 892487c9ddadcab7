"""What `watch` does where a change is refused before its first step: that is no restart, and no sleep in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.cli.exits import exit_code_of
from gpumod.domain.errors import MachineLacks
from gpumod.operations.following_health import REFUSED, RESTARTED
from gpumod.operations.use_results import SleepIdleParams
from gpumod.operations.watch_results import WatchParams
from gpumod.testing.signals import interrupt
from gpumod.testing.world_drivers import quick_service, quiet, world_mode

SERVICES = (
    quick_service("small", 500, 9001),
    quick_service("big", 4000, 9002),
    quick_service("nap", 1000, 9003, naps=True, idle_timeout=60),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    modes = (world_mode("on", "small"), world_mode("both", "small", "big"), world_mode("idle", "nap"))
    return make_box(8000, define=[*SERVICES, *modes])


def looks(box: Any, times: int, every_s: float = 10.0) -> list[Any]:
    seen = [box.look()]
    for _ in range(times - 1):
        box.pass_time(every_s)
        seen.append(box.look(seen[-1]))
    return seen


def events(box: Any) -> tuple[int, int]:
    """Restarts, and refusals of one."""
    return len(box.store.events_of(RESTARTED, limit=99)), len(box.store.events_of(REFUSED, limit=99))


def test_a_full_disk_spends_nothing_and_is_said_once(box: Any) -> None:
    box.switch("on")
    box.crash("small")
    box.world.free_disk_mb = 12
    seen = looks(box, 3)
    box.world.free_disk_mb = 10
    seen += looks(box, 3)
    assert [one.mended for one in seen] == [()] * 6
    assert {one.notes for one in seen} == {(f"small is not restarted yet: the disk of {box.home} is nearly full",)}
    assert (events(box), exit_code_of(seen[-1])) == ((0, 0), 1)
    box.world.free_disk_mb = 100_000
    (done,) = box.look(seen[-1]).mended
    assert (done.subject, done.error, events(box)) == ("small", None, (1, 0))


@pytest.mark.parametrize("back_s", [0.0, 7200.0], ids=["", "by a clock that was set back"])
def test_a_refusal_is_told_once_and_tried_again_ever_more_rarely(box: Any, back_s: float) -> None:
    box.switch("both")
    box.crash("big")
    assert [done.error for done in box.look().mended] == [None]
    box.pass_time(120)
    box.world.clock.ahead_s -= back_s
    box.crash("big")
    box.world.foreign(5000)
    told = [done.error.code for one in looks(box, 20, 20.0) for done in one.mended]
    assert told == ["does-not-fit"]
    assert 3 < events(box)[1] < 10


def test_a_signal_before_the_first_step_spends_nothing(box: Any) -> None:
    box.switch("both")
    box.world.fault("big", "hang")  # the look under the lock takes some seconds
    box.crash("small")

    async def both() -> Any:
        watching = asyncio.create_task(box.gpumod().watch(WatchParams()))
        while box.world.holder is None:
            await box.world.clock.sleep(0.1)
        interrupt()
        return await watching

    seen = box.world.clock.run(both())
    assert (seen.interrupted, [done.error.code for done in seen.mended]) == (True, ["interrupted"])
    assert (events(box), box.world.states()) == ((0, 0), {"big": "ready"})


def test_a_restart_whose_journal_fails_counts_once_when_it_is_closed(box: Any) -> None:
    box.switch("on")
    box.crash("small")
    box.acts.clear()

    def fill(act: str) -> None:
        if act.startswith("write") and "start small after" in box.acts:
            raise MachineLacks("disk-full", "the disk is full", hint="make room")

    box.every = fill
    assert "its journal could not be written" in box.look().notes[0]
    assert events(box) == (0, 0)
    box.every = quiet
    assert [done.what for done in box.look().mended] == ["recover"]
    assert events(box) == (1, 0)


def test_what_does_not_fit_comes_back_when_it_does(box: Any) -> None:
    box.switch("both")
    box.crash("big")
    box.world.foreign(5000)
    seen = looks(box, 40, 20.0)
    assert [done.error.code for one in seen for done in one.mended] == ["does-not-fit"]
    (note,) = {note for one in seen for note in one.notes}
    assert note.startswith("big is not restarted yet: ")
    assert events(box) == (0, 8)  # 5, 10, 20 ... 300 s after one another, at the next look
    box.world.strangers.clear()
    seen = looks(box, 16, 20.0)
    assert [(done.subject, done.error) for one in seen for done in one.mended] == [("big", None)]
    assert (seen[-1].whole, seen[-1].notes) == (True, ())


def test_a_clock_that_is_set_back_holds_no_refused_restart_back(box: Any) -> None:
    box.switch("both")
    box.crash("big")
    box.world.foreign(5000)
    looks(box, 10, 20.0)
    box.world.strangers.clear()
    box.world.clock.ahead_s -= 3000.0
    assert [done.error for one in looks(box, 3, 20.0) for done in one.mended] == [None]


def test_what_is_refused_hinders_nobody_else(box: Any) -> None:
    box.switch("both")
    box.crash("small")
    box.crash("big")
    nginx = box.world.foreign(port=9002, name="nginx")
    seen = looks(box, 6)
    told = [(done.subject, done.error and done.error.code) for one in seen for done in one.mended]
    assert told == [("big, small", "port-taken"), ("small", None)]
    assert box.world.states() == {"small": "ready"}
    assert seen[-1].notes == (f"big is not restarted yet: port 9002 of big is taken by nginx (pid {nginx.pid})",)


def test_a_crash_loop_ends_also_where_some_of_its_restarts_are_refused(box: Any) -> None:
    box.switch("on")
    begun = 0
    for turn in range(40):
        if "small" in box.world.alive():
            box.crash("small")
        box.world.strangers.clear()
        if turn % 3 == 0:
            box.world.foreign(port=9001, name="nginx")
        begun += sum(done.change is not None for done in box.look().mended)
        box.pass_time(20)
    assert begun == 3
    box.world.strangers.clear()
    (note,) = box.look().notes
    assert note.startswith("small is left alone, it was restarted 3 times within an hour")


def test_a_full_disk_is_no_sleep_in_vain(box: Any) -> None:
    box.switch("idle")
    box.world.free_disk_mb = 10
    seen = looks(box, 30, 30.0)
    assert [done for one in seen for done in one.mended] == []
    assert seen[-1].notes == (f"nap stays awake: the disk of {box.home} is nearly full",)
    with pytest.raises(Exception, match="nearly full"):
        box.ask("auto_sleep_idle", SleepIdleParams())
    assert box.store.events_of("idle-sleep-failed", limit=9) == ()
    box.world.free_disk_mb = 100_000
    (done,) = box.look(seen[-1]).mended
    assert (done.what, done.error, box.world.states()) == ("sleep", None, {"nap": "asleep"})
