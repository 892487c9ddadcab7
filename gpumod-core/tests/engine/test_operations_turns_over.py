"""The end of a turn: it is over whatever happens, and the service is left as the mode wants it by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from gpumod.domain.mode import Want
from gpumod.domain.run import RunStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.testing.world_drivers import quick_service, world_mode

pytestmark = pytest.mark.slow

SERVICES = (
    quick_service("hyde", 4000, 9002, naps=True),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("extra", 500, 9004, load_s=5.0),
)
MODES = (
    world_mode("rag", "hyde:time-shared", "rank:time-shared"),
    world_mode("wide", "hyde"),
    world_mode("both", "extra", "hyde:time-shared"),
    world_mode("bare", "extra"),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def ends_while(box: Any, command: str, doing: Callable[[Gpumod], Awaitable[Any]]) -> Any:
    """The end of a turn that has to wait, and what somebody does before it comes."""
    mine = box.begin("hyde")
    box.busy(command)

    async def both() -> Any:
        over = asyncio.create_task(box.gpumod().service_turn(TurnParams(end=mine)))
        await box.world.clock.sleep(1)
        box.world.holder = None
        await doing(box.gpumod())
        return await over

    return box.world.clock.run(both())


@pytest.mark.parametrize("cancels", [1, 2])
def test_a_turn_of_a_task_that_is_cancelled_is_over(box: Any, cancels: int) -> None:
    async def holds() -> None:
        async with box.gpumod().turn("hyde"):
            await box.world.clock.sleep(60)

    async def leaves() -> None:
        task = asyncio.create_task(holds())
        await box.world.clock.sleep(5)
        for _ in range(cancels):  # the second while the first one is cleared up after
            task.cancel()
            await box.world.clock.sleep(0.0001)
        with suppress(asyncio.CancelledError):
            await task

    box.world.clock.run(leaves())
    assert [ticket.identity for ticket in box.store.turns()] in ([], [""])  # whatever is left, nobody holds it
    assert box.store.open_run() is None
    box.look()
    assert (box.store.turns(), box.world.states()["hyde"]) == ((), "asleep")
    box.check_sound()


def test_a_turn_that_is_cancelled_while_it_wakes_leaves_no_open_run(box: Any) -> None:
    async def leaves() -> None:
        task = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="hyde", pid=7)))
        box.when("wake hyde sent", task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    box.world.clock.run(leaves())
    assert box.store.turns() == ()
    assert box.store.open_run() is None
    assert box.store.runs(1)[0].status is RunStatus.ROLLED_BACK
    assert box.world.states() == {"hyde": "asleep", "rank": "asleep"}
    box.check_sound()


def test_what_the_next_mode_wants_awake_stays_awake(box: Any) -> None:
    mine = box.begin("hyde")
    box.ask("switch", SwitchParams(mode="wide"))
    assert box.end(mine).back is None
    assert box.world.states() == {"hyde": "ready"}


def test_a_switch_under_way_at_the_end_of_a_turn_decides(box: Any) -> None:
    over = ends_while(box, "switch wide", lambda g: g.switch(SwitchParams(mode="wide")))
    assert (over.back.status, over.notes) == (RunStatus.NOTHING_TO_DO, ())
    assert box.world.states() == {"hyde": "ready"}


def test_what_had_died_in_its_mode_is_not_stopped_again(box: Any) -> None:
    box.ask("switch", SwitchParams(mode="wide"))
    box.crash("hyde")
    assert box.ask("service_turn", TurnParams(end=box.begin("hyde"))).back is None
    assert box.world.states() == {"hyde": "ready"}


def test_what_slept_in_its_mode_sleeps_again(box: Any) -> None:
    box.ask("switch", SwitchParams(mode="wide"))
    box.start("hyde", want=Want.ASLEEP)
    box.ask("service_turn", TurnParams(end=box.begin("hyde")))
    assert box.world.states() == {"hyde": "asleep"}


@pytest.mark.parametrize(("mode", "left"), [("both", {"hyde": "asleep"}), ("bare", {})])
def test_a_turn_that_ends_while_a_switch_keeps_its_service_does_not_fail_it(
    box: Any, mode: str, left: dict[str, str]
) -> None:
    mine = box.begin("hyde")

    async def both() -> Any:
        switching = asyncio.create_task(box.gpumod().switch(SwitchParams(mode=mode)))
        await box.world.clock.sleep(2)
        over = await box.gpumod().service_turn(TurnParams(end=mine))
        return await switching, over

    switched, over = box.world.clock.run(both())
    assert (switched.status, switched.error) == (RunStatus.DONE, None)
    assert switched.mode_now == mode
    assert (over.back.status, over.notes) == (RunStatus.DONE, ())
    assert box.world.states() == {"extra": "ready", **left}
    assert box.ask("mode_verify", ModeRef(mode=mode)).whole
    box.check_sound()


def test_what_a_person_stopped_during_a_turn_stays_stopped(box: Any) -> None:
    mine = box.begin("hyde")
    box.ask("service_stop", ServiceChange(service="hyde", force=True))
    assert box.end(mine).back is None
    assert box.world.states() == {"rank": "asleep"}
    box.check_sound()


def test_what_is_stopped_while_the_end_of_a_turn_waits_stays_stopped(box: Any) -> None:
    over = ends_while(box, "service stop hyde", lambda g: g.service_stop(ServiceChange(service="hyde")))
    assert (over.back.status, over.notes) == (RunStatus.NOTHING_TO_DO, ())
    assert box.world.states() == {"rank": "asleep"}


def test_whose_place_in_the_queue_is_given_back_has_had_no_turn(box: Any) -> None:
    box.begin("hyde")

    async def leaves() -> None:
        waits = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(1)
        await box.gpumod().switch(SwitchParams(mode="bare"))
        await box.gpumod().service_turn(TurnParams(end=box.store.turns()[-1].id))
        waits.cancel()

    box.world.clock.run(leaves())
    assert [ticket.pid for ticket in box.store.turns()] == [7]
    assert [event.subject for event in box.store.events_of("turn-ended", limit=9)] == []


@pytest.mark.parametrize("before", ["asleep", "awake"])
@pytest.mark.parametrize(("mode", "left"), [("bare", None), ("low", "asleep"), ("wide", "ready"), ("upon", "ready")])
def test_a_mode_that_was_entered_during_a_turn_is_whole_after_it(
    box: Any, before: str, mode: str, left: str | None
) -> None:
    box.define(
        world_mode("low", "hyde:asleep"),
        quick_service("top", 100, 9005, depends_on=("hyde",)),
        world_mode("upon", "top"),
    )
    if before == "awake":
        box.start("hyde")
    mine = box.begin("hyde")
    box.ask("switch", SwitchParams(mode=mode))
    assert box.world.states()["hyde"] == "ready"
    box.end(mine)
    assert box.world.states().get("hyde") == left
    assert box.ask("mode_verify", ModeRef(mode=mode)).whole
    assert box.store.turns() == ()


def test_what_is_pinned_is_as_it_was_whatever_mode_was_entered(box: Any) -> None:
    box.define(quick_service("hyde", 4000, 9002, naps=True, pinned=True))
    mine = box.begin("hyde")
    box.ask("switch", SwitchParams(mode="bare"))
    box.end(mine)
    assert box.world.states() == {"extra": "ready", "hyde": "asleep"}


def test_a_turn_of_a_task_that_somebody_else_has_given_back_ends_quietly(box: Any) -> None:
    async def holds() -> None:
        async with box.gpumod().turn("hyde") as mine:
            await box.gpumod().service_turn(TurnParams(end=mine.id))

    box.world.clock.run(holds())
    assert (box.store.turns(), box.world.states()["hyde"]) == ((), "asleep")
