"""What one turn leaves to another is put back in the end, by whoever ends one; and what is up for turns alone is so for
everybody who asks."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from gpumod.domain.errors import Busy
from gpumod.domain.run import RunStatus
from gpumod.operations.params import FreeParams, NoParams, RecoverParams, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("hyde", 3000, 9002, naps=True),
    quick_service("rank", 3000, 9003, naps=True),
    quick_service("alone", 500, 9004),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"), world_mode("wide", "hyde", "rank"))
AT_REST = {"hyde": "asleep", "rank": "asleep"}
pytestmark = pytest.mark.slow


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def told(box: Any) -> tuple[str, ...]:
    """What status tells of turns."""
    turns: tuple[str, ...] = box.ask("status", NoParams()).turns
    return turns


def test_what_is_left_to_somebody_whose_turn_does_not_come_about_is_put_back(box: Any) -> None:
    first = box.begin("hyde")

    async def day() -> Any:
        asking = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(1)
        box.world.fault("rank", "wake-oom")
        assert (await box.gpumod().service_turn(TurnParams(end=first))).back is None
        return await asking

    assert box.world.clock.run(day()).change.status is RunStatus.ROLLED_BACK
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_is_left_to_somebody_who_leaves_the_queue_is_put_back(box: Any) -> None:
    first = box.begin("hyde")

    async def day() -> None:
        asking = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(1)
        assert (await box.gpumod().service_turn(TurnParams(end=first))).back is None
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking

    box.world.clock.run(day())
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_shares_its_place_since_a_switch_is_put_to_sleep_at_the_end_of_its_own_turn(box: Any) -> None:
    box.switch("wide")
    first, second = box.begin("hyde"), box.begin("rank", 8)
    box.ask("switch", SwitchParams(mode="rag"))
    box.end(first)
    assert box.world.states() == {"hyde": "asleep", "rank": "ready"}
    box.end(second)
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_the_end_of_a_turn_puts_back_what_killed_ones_have_left(box: Any) -> None:
    mine = box.begin("hyde", 8)
    box.lose("alone")
    ended = box.end(mine)
    assert (ended.back.status, ended.notes) == (RunStatus.DONE, ())
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_a_turn_cannot_put_back_stays_owed_and_is_told(box: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def has_a_turn() -> None:
        async with box.gpumod().turn("hyde"):
            box.world.fault("hyde", "sleep-500")

    with caplog.at_level(logging.WARNING):
        box.world.clock.run(has_a_turn())
    assert any(record.getMessage().startswith("after the turn with hyde: ") for record in caplog.records)
    assert len(told(box)) == 1
    seen = box.look()
    assert [(done.subject, done.error is not None) for done in seen.mended] == [("hyde", True)]
    assert (box.look(seen).mended, told(box)) == ((), ())  # it is told once, then left alone


def test_what_others_could_not_put_back_is_tried_once_more_after_ones_own(box: Any) -> None:
    first = box.begin("hyde")
    box.world.fault("hyde", "sleep-500")
    box.end(first)
    assert len(told(box)) == 1
    box.acts.clear()
    ended = box.end(box.begin("alone"))
    tried = [act for act in box.acts if act in ("stop alone before", "sleep hyde before")]
    assert tried == ["stop alone before", "sleep hyde before"]
    assert ended.back is not None
    assert [note.split(":")[0] for note in ended.notes] == ["hyde stays awake"]
    assert told(box) == ()
    assert box.end(box.begin("alone", pid=8)).notes == ()


@pytest.mark.parametrize("found", ["stopped", "asleep"])
def test_what_an_alternative_lets_take_turns_is_put_to_sleep_after_one(make_box: Any, found: str) -> None:
    box = make_box(4000, define=[*SERVICES, *MODES])
    refused = box.ask("switch", SwitchParams(mode="wide"))
    shared = next(offered.id for offered in refused.plan.alternatives if offered.changes.time_share)
    box.ask("switch", SwitchParams(mode="wide", alternative=shared))
    if found == "stopped":
        box.stop("hyde")
    mine = box.begin("hyde")
    box.end(mine)
    assert box.world.states() == AT_REST


@pytest.mark.parametrize("over", [False, True])
def test_what_is_up_for_turns_alone_does_not_come_back_after_room_was_made(box: Any, *, over: bool) -> None:
    mine = box.begin("hyde")
    if over:
        box.world.gone.add(7)
    box.ask("free", FreeParams(mb=6000, force=not over))
    assert box.world.states()["hyde"] == "asleep"
    if not over:
        box.end(mine)
    box.ask("free", FreeParams(back=True))
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_is_awake_for_nobody_is_told_though_others_have_a_turn(box: Any) -> None:
    box.lose("alone")
    box.begin("hyde", 8)
    (has, left) = told(box)
    assert has == "somebody (pid 8) has a turn with hyde"
    assert left.startswith("alone is awake for a turn that is over (somebody (pid 7))")
    assert box.ask("recover", RecoverParams()).notes == (left,)


def test_what_somebody_needs_or_waits_for_is_not_awake_for_nobody(box: Any) -> None:
    box.define(quick_service("app", 200, 9005, depends_on=("hyde",)))
    box.lose("hyde")
    box.begin("app", 8)
    assert told(box) == ("somebody (pid 8) has a turn with app",)


def test_who_waits_for_a_place_that_is_none_any_more_waits_no_longer(box: Any) -> None:
    box.begin("hyde")

    async def day() -> Any:
        asking = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(1)
        await box.gpumod().switch(SwitchParams(mode="wide"))
        return await asyncio.wait_for(asking, 5)

    assert box.world.clock.run(day()).turn.service == "rank"
    assert box.world.states() == {"hyde": "ready", "rank": "ready"}


def test_who_waits_at_most_so_long_does_not_wait_longer_for_the_machine(box: Any) -> None:
    box.busy()
    with pytest.raises(Busy) as caught:
        box.ask("service_turn", TurnParams(service="alone", pid=7, wait_s=2))
    assert caught.value.code == "no-turn"
    assert "apply --now" in caught.value.info.why
    box.world.holder = None
    box.look()
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_a_mode_wants_and_has_died_stays_up_after_a_turn(box: Any) -> None:
    box.switch("wide")
    box.ask("service_stop", ServiceChange(service="hyde"))
    mine = box.begin("hyde")
    assert box.end(mine).back is None
    assert box.world.states()["hyde"] == "ready"
