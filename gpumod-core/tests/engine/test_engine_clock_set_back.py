"""The time of day is set back, as after a boot with a clock that was ahead: what came first is known all the same."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.health import Budget, Limits, Pulse, due_in_s, restart_at
from gpumod.engine.monitor import Monitor
from gpumod.operations.params import FreeParams, ServiceChange
from gpumod.testing.world_drivers import quick_service, world_mode

BACK_S = 7200.0
WEB = quick_service("web", 3000, 9001)
NAP = quick_service("nap", 4000, 9002, naps=True)
MODES = (world_mode("on", "web", "nap"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[WEB, NAP, *MODES])


def set_back(box: Any) -> None:
    box.world.clock.ahead_s -= BACK_S


def free(box: Any, mb: int | None = None, **more: Any) -> Any:
    return box.ask("free", FreeParams(mb=mb, back=mb is None, **more))


def test_what_made_room_comes_back_though_a_switch_seems_to_be_younger(box: Any) -> None:
    box.switch("on")
    set_back(box)
    free(box, 4000)
    back = free(box)
    assert (back.notes, back.back.exit_code) == ((), 0)
    assert box.world.states() == {"web": "ready", "nap": "ready"}


def test_after_a_switch_nothing_comes_back_though_it_seems_to_be_older(box: Any) -> None:
    box.switch("on")
    free(box, 4000)
    set_back(box)
    box.switch("off")
    assert free(box).notes == ("the machine was switched to a mode since: that is left as it is",)
    assert box.world.states() == {}


def test_a_lease_of_an_older_gpumod_comes_back(box: Any) -> None:
    box.switch("on")
    free(box, 4000, pid=os.getpid())
    (row,) = box.store.holdings()
    event = box.store.events(1)[0]
    box.store.put_holding(row.model_copy(update={"mode_run": None}), event=event)
    box.world.gone.add(os.getpid())
    assert free(box).notes == ()
    assert box.world.states() == {"web": "ready", "nap": "ready"}


def test_a_lease_of_an_older_gpumod_does_not_come_back_after_a_switch(box: Any) -> None:
    box.switch("on")
    free(box, 4000, pid=os.getpid())
    (row,) = box.store.holdings()
    box.store.put_holding(row.model_copy(update={"mode_run": None}), event=box.store.events(1)[0])
    box.world.clock.ahead_s += 60
    box.switch("off")
    box.world.gone.add(os.getpid())
    free(box)
    assert box.world.states() == {}


def test_the_older_lease_stays_the_older(box: Any) -> None:
    free(box, 1000)
    set_back(box)
    free(box, 2000)
    assert [row.vram_mb for row in box.store.holdings()] == [1000, 2000]


def test_the_boot_mode_is_tried_again_at_once(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    box.world.fault("web", "die-after", 0.0)
    assert box.look().mended[0].error is not None
    box.world.faults.clear()
    set_back(box)
    assert [done.error for done in box.look().mended] == [None]
    assert box.world.states() == {"web": "ready", "nap": "ready"}


@pytest.mark.parametrize("back_s", [BACK_S, 2.0], ids=["two hours", "two seconds"])
def test_what_is_started_afterwards_is_looked_after(box: Any, back_s: float) -> None:
    box.switch("off")
    box.look()
    box.boot()
    box.look()
    box.world.clock.ahead_s -= back_s
    assert box.switch("on").exit_code == 0
    box.pass_time(10)
    seen = box.look()
    box.crash("web")
    (done,) = box.look(seen).mended
    assert (done.what, done.subject, done.error) == ("restart", "web", None)


def test_what_did_not_come_up_again_is_tried_again(box: Any) -> None:
    box.switch("off")
    box.look()
    box.boot()
    box.look()
    set_back(box)
    box.switch("on")
    box.look()
    box.world.fault("web", "die-after", 0.0)
    box.crash("web")
    assert box.look().mended[0].error is not None
    box.world.faults.clear()
    box.pass_time(60)
    assert [(done.subject, done.error) for done in box.look().mended] == [("web", None)]


def down_after_a_restart(box: Any) -> None:
    """`web` did not come up again, and the clock is set back after that; what was wrong with it is over."""
    box.switch("on")
    box.look()
    box.world.fault("web", "die-after", 0.0)
    box.crash("web")
    assert box.look().mended[0].error is not None
    set_back(box)
    box.world.faults.clear()


def test_what_did_not_come_up_before_it_was_set_back_is_tried_again(box: Any) -> None:
    down_after_a_restart(box)
    box.pass_time(60)
    assert [(done.subject, done.error) for done in box.look().mended] == [("web", None)]


def test_what_was_down_and_is_told_to_stop_then_stays_so(box: Any) -> None:
    down_after_a_restart(box)
    assert box.ask("service_stop", ServiceChange(service="web")).status == "nothing-to-do"
    box.pass_time(2 * BACK_S)
    assert box.look().mended == ()


def test_what_a_person_has_brought_up_and_down_since_stays_so(box: Any) -> None:
    down_after_a_restart(box)
    box.start("web")
    box.stop("web")
    box.pass_time(2 * BACK_S)
    assert box.look().mended == ()


def test_what_was_up_before_the_boot_is_not_looked_after_then_either(box: Any) -> None:
    box.switch("on")
    box.look()
    box.boot()
    assert box.look().mended == ()
    set_back(box)
    for _ in range(3):
        assert box.look().mended == ()
        box.pass_time(30)
    assert len(box.store.events_of("boot-seen", limit=9)) == 3, "of two boots, and once more"


def test_who_idles_sleeps_in_time(box: Any) -> None:
    router = quick_service("router", 0, 9003, driver="world-host")
    idle = {"idle_timeout": 60.0}
    guest = quick_service("guest", 500, host="router", sleep_mode="unload", **idle)
    box.define(router, guest, NAP.model_copy(update=idle), world_mode("idle", "nap", "guest"))
    box.switch("idle")
    seen = box.look()
    set_back(box)
    for _ in range(8):
        box.pass_time(10)
        seen = box.look(seen)
    assert box.world.states() == {"nap": "asleep", "router": "ready"}


def test_every_service_is_asked_in_time(box: Any) -> None:
    box.switch("on")
    machine, limits = box.machine(), Limits(interval_s=10.0, jitter=0.0)
    first = Monitor(machine, limits, lambda: 0.5, {})
    box.world.clock.run(first.follow(box.world.clock.now() + 5))
    set_back(box)
    then = Monitor(machine, limits, lambda: 0.5, first.pulses)
    box.world.clock.run(then.follow(box.world.clock.now() + 25))
    assert {service: pulse.streak for service, pulse in then.pulses.items()} == {"web": 3, "nap": 3}


@given(st.floats(0, 1e5), st.integers(0, 20), st.sampled_from(["good", "bad", "unclear", "dead"]))
def test_no_look_is_further_away_than_its_longest_wait(ahead_s: float, streak: int, sign: Any) -> None:
    limits = Limits()
    pulse = Pulse(service="web", run="1", since=0.0, sign=sign, streak=streak, next_at=1e6 + ahead_s)
    assert due_in_s(pulse, limits, 1e6) <= limits.most_s * (1 + limits.jitter)
    assert due_in_s(pulse, limits, 1e6 + ahead_s + 1) <= 0


def test_restarts_that_lie_ahead_hinder_none() -> None:
    budget = Budget(restarts=2)
    assert restart_at([5000.0, 5001.0], budget, 100.0) == 100.0
    assert restart_at([99.0, 5000.0], budget, 100.0) == 99.0 + budget.first_s
