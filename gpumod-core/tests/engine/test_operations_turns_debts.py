"""What turns owe: it is known from their first moment, and goes only when the service is left as it is to be."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from gpumod.domain.mode import Want
from gpumod.domain.run import RunStatus
from gpumod.domain.states import State
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef, NoParams, RecoverParams, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.operations.watch_results import WatchParams
from gpumod.ports import Local
from gpumod.testing.signals import interrupt
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("hyde", 3000, 9002, naps=True),
    quick_service("rank", 3000, 9003, naps=True),
    quick_service("alone", 500, 9004),
    quick_service("slow", 500, 9005, load_s=3.0),
    quick_service("app", 200, 9006, depends_on=("hyde",)),
)
MODES = (
    world_mode("rag", "hyde:time-shared", "rank:time-shared"),
    world_mode("wide", "hyde"),
    world_mode("one", "alone"),
    world_mode("blank"),
    world_mode("late", "alone", "slow"),
)
AT_REST = {"hyde": "asleep", "rank": "asleep"}
FOUND = {"hyde": "asleep", "alone": None}
pytestmark = pytest.mark.slow


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def whole(box: Any) -> None:
    assert (box.store.turns(), box.store.open_run()) == ((), None)
    assert box.ask("status", NoParams()).turns == ()
    box.check_sound()


def meanwhile(box: Any, first: Callable[[Gpumod], Awaitable[Any]], after_s: float, then: Any) -> Any:
    """Something begins, and `then` begins while it is under way. What both gave."""

    async def both() -> Any:
        doing = asyncio.ensure_future(first(box.gpumod()))
        await box.world.clock.sleep(after_s)
        return await asyncio.gather(doing, then(box.gpumod()), return_exceptions=True)

    return box.world.clock.run(both())


class Called:
    """A computer on which a signal comes as soon as the lock is taken."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    def lock(self, *where: Any) -> Any:
        asyncio.get_running_loop().call_soon(interrupt)
        return self._local.lock(*where)


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "point"),
    [
        ("hyde", "sleep hyde sent"),
        ("hyde", "sleep hyde before"),
        ("alone", "stop alone before"),
    ],
)
def test_a_watch_that_is_stopped_while_it_puts_back_leaves_that_to_the_next(box: Any, service: str, point: str) -> None:
    box.lose(service)
    box.when(point, lambda: interrupt(signal.SIGTERM))
    assert box.look().interrupted
    assert box.world.states()[service] == "ready"
    assert "awake for a turn that is over" in box.ask("status", NoParams()).turns[0]
    box.look()
    assert box.world.states().get(service) == FOUND[service]
    whole(box)


def test_a_watch_that_is_stopped_before_its_first_step_leaves_that_to_the_next(box: Any) -> None:
    box.lose("hyde")
    machine = box.machine()
    called = Gpumod(replace(machine, local=Called(machine.local)), bare_tools())
    seen = box.world.clock.run(called.watch(WatchParams()))
    assert (seen.interrupted, box.world.states()["hyde"]) == (True, "ready")
    box.look()
    assert box.world.states() == AT_REST
    whole(box)


@pytest.mark.parametrize("service", ["alone", "hyde"])
def test_a_signal_at_the_end_of_a_turn_leaves_it_to_others(box: Any, service: str) -> None:
    mine = box.begin(service)
    box.when(f"{'sleep' if service == 'hyde' else 'stop'} {service} before", interrupt)
    assert box.end(mine).back.error.code == "interrupted"
    assert box.world.states()[service] == "ready"
    box.look()
    assert box.world.states().get(service) == FOUND[service]
    whole(box)


# --- turns that do not come about -------------------------------------------------------------------------------------


def test_who_joins_and_is_cancelled_owes_what_the_first_has_left(box: Any) -> None:
    first = box.begin("alone")

    async def day() -> None:
        box.busy()
        joins = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="alone", pid=8)))
        await box.world.clock.sleep(1)
        assert (await box.gpumod().service_turn(TurnParams(end=first))).back is None
        joins.cancel()
        with suppress(asyncio.CancelledError):
            await joins
        box.world.holder = None

    box.world.clock.run(day())
    box.look()
    assert "alone" not in box.world.states()
    whole(box)


@pytest.mark.parametrize("service", ["alone", "hyde"])
def test_a_turn_that_is_cancelled_when_it_has_woken_is_put_back(box: Any, service: str) -> None:
    async def leaves() -> None:
        task = asyncio.create_task(box.gpumod().service_turn(TurnParams(service=service, pid=7)))
        box.when("write finish_run before", task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    box.world.clock.run(leaves())
    assert box.world.states().get(service) == FOUND[service]
    whole(box)


def test_a_killed_turn_that_is_resumed_is_put_back(box: Any) -> None:
    copies: list[Any] = []
    box.when("wake hyde sent", lambda: copies.append(box.copy("killed")))
    box.begin("hyde")
    (later,) = copies
    later.world.gone.add(7)
    assert later.ask("recover", RecoverParams(way="resume")).change.status is RunStatus.DONE
    assert later.world.states() == {"hyde": "ready", "rank": "asleep"}
    later.look()
    assert later.world.states() == AT_REST
    whole(later)
    later.close()


# --- how it was found -------------------------------------------------------------------------------------------------


def test_a_turn_that_begins_while_its_service_is_put_to_sleep_leaves_it_asleep(box: Any) -> None:
    box.start("hyde")
    slept, turned = meanwhile(
        box,
        lambda g: g.service_sleep(ServiceChange(service="hyde")),
        0.1,
        lambda g: g.service_turn(TurnParams(service="hyde", pid=7)),
    )
    assert slept.status is RunStatus.DONE
    assert box.world.states()["hyde"] == "ready"
    box.end(turned.turn.id)
    assert box.world.states() == AT_REST
    whole(box)


def test_a_turn_that_begins_during_a_switch_that_goes_back_leaves_what_was_before(box: Any) -> None:
    box.world.fault("slow", "die-after", 2.0)
    switched, turned = meanwhile(
        box,
        lambda g: g.switch(SwitchParams(mode="late")),
        1.5,
        lambda g: g.service_turn(TurnParams(service="alone", pid=7)),
    )
    assert switched.status is RunStatus.ROLLED_BACK
    assert box.world.states()["alone"] == "ready"
    assert switched.notes == ("passed over: somebody (pid 7) has a turn with alone",)
    box.end(turned.turn.id)
    assert "alone" not in box.world.states()
    whole(box)


def test_a_turn_that_begins_while_its_service_restarts_leaves_it_up(box: Any) -> None:
    box.start("alone")
    _, turned = meanwhile(
        box,
        lambda g: g.service_restart(ServiceChange(service="alone")),
        0.2,
        lambda g: g.service_turn(TurnParams(service="alone", pid=7)),
    )
    box.end(turned.turn.id)
    assert box.world.states()["alone"] == "ready"
    whole(box)


def test_who_takes_over_what_answers_late_leaves_it_as_it_was(box: Any) -> None:
    box.lose("hyde")
    box.world.fault("hyde", "hang")
    assert box.observe().reading("hyde").state not in (State.RUNNING, State.SLEEPING)
    starting = box.machine()
    box.when("start hyde before", box.world.faults.clear)
    mine = box.world.clock.run(Gpumod(starting, bare_tools()).service_turn(TurnParams(service="hyde", pid=8))).turn.id
    box.end(mine)
    assert box.world.states() == AT_REST
    whole(box)


# --- what others need -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ["asleep", "stopped"])
@pytest.mark.parametrize("killed", [False, True])
def test_what_another_turn_needs_is_put_back_after_that(box: Any, found: str, *, killed: bool) -> None:
    if found == "stopped":
        box.ask("switch", SwitchParams(mode="one"))
    before = box.world.states()
    first = box.begin("hyde")
    second = box.begin("app", 8)
    if killed:
        box.world.gone.add(7)
        assert box.look().mended == ()
    else:
        assert box.end(first).back is None
    assert box.world.states()["hyde"] == "ready"
    box.end(second)
    assert box.world.states() == before
    whole(box)


# --- what people ask for ----------------------------------------------------------------------------------------------


def test_what_a_person_starts_stays(box: Any) -> None:
    box.lose("alone")
    assert box.ask("service_start", ServiceChange(service="alone")).status is RunStatus.NOTHING_TO_DO
    assert box.look().mended == ()
    assert box.world.states()["alone"] == "ready"
    whole(box)


def test_a_mode_that_is_entered_again_decides(box: Any) -> None:
    box.ask("switch", SwitchParams(mode="wide"))
    box.ask("service_sleep", ServiceChange(service="hyde"))
    mine = box.begin("hyde")
    assert box.ask("switch", SwitchParams(mode="wide")).status is RunStatus.NOTHING_TO_DO
    box.end(mine)
    assert box.world.states() == {"hyde": "ready"}
    assert box.ask("mode_verify", ModeRef(mode="wide")).whole
    whole(box)


def test_what_the_mode_wants_is_not_left_awake_for_nobody(box: Any) -> None:
    box.lose("alone")
    switched = box.ask("switch", SwitchParams(mode="one"))
    assert [note for note in switched.notes if "awake for a turn" in note] == []
    assert box.look().mended == ()
    assert box.world.states() == {"alone": "ready"}
    whole(box)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_what_keeps_watch_from_putting_back_for_a_moment_is_noted_and_tried_again(box: Any) -> None:
    box.lose("hyde")
    box.world.free_disk_mb = 10
    seen = box.look()
    assert (len(seen.notes), seen.mended) == (1, ())
    assert seen.notes[0].startswith("hyde stays awake: ")
    box.world.free_disk_mb = 100_000
    assert [done.subject for done in box.look(seen).mended] == ["hyde"]
    assert box.world.states() == AT_REST
    whole(box)


@pytest.mark.parametrize(("mode", "found"), [("rag", "stopped"), ("blank", "asleep")])
def test_what_crashed_during_its_turn_is_not_started_for_its_end(box: Any, mode: str, found: str) -> None:
    box.switch(mode)
    box.start("hyde", want=Want.ASLEEP)
    if found == "stopped":
        box.stop("hyde")
    mine = box.begin("hyde")
    box.crash("hyde")
    box.acts.clear()
    box.end(mine)
    assert "start hyde before" not in box.acts
    assert box.store.turns() == ()


def test_a_turn_that_is_turned_back_has_passed_over_nobody(box: Any) -> None:
    box.world.fault("hyde", "wake-oom")
    assert box.ask("service_turn", TurnParams(service="hyde", pid=7)).change.notes == ()
    box.world.faults.clear()

    async def leaves() -> Any:
        box.when("wake hyde after", interrupt)
        return await box.gpumod().service_turn(TurnParams(service="hyde", pid=7))

    made = box.world.clock.run(leaves())
    assert (made.change.status, made.change.notes) == (RunStatus.ROLLED_BACK, ())
    whole(box)


def test_recover_shows_what_is_open_though_the_gpus_cannot_be_read(box: Any) -> None:
    box.lose("hyde")
    box.settings["cuda_devices"] = "7"
    assert box.ask("recover", RecoverParams()).notes == ()


def test_watch_does_not_wait_for_what_others_settle(box: Any) -> None:
    box.lose("hyde")

    async def day() -> None:
        box.busy()
        waits = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(0.5)
        began_s = box.world.clock.now()
        assert (await box.gpumod().watch(WatchParams())).mended == ()
        assert box.world.clock.now() - began_s < 1
        box.world.holder = None
        await waits

    box.world.clock.run(day())
    assert box.world.states() == {"hyde": "asleep", "rank": "ready"}
