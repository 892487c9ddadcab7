"""Turns over a world: one member awake at a time, in order, and whole whatever becomes of who holds one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.domain.errors import Busy, DoesNotFit, UnknownName
from gpumod.operations.params import ModeRef, NoParams, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.ports import Holder
from gpumod.testing.world import most_mb
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("base", 500, 9001),
    quick_service("hyde", 4000, 9002, naps=True),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("chat", 5000, 9004, naps=True),
    quick_service("alone", 1000, 9005),
)
MODES = (world_mode("rag", "base", "hyde:time-shared", "rank:time-shared", "chat:time-shared"), world_mode("blank"))


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def test_a_turn_that_does_not_fit_hints_at_what_can_be_done(box: Any) -> None:
    box.define(quick_service("huge", 7400, 9006))
    with pytest.raises(DoesNotFit) as refused:
        box.world.clock.run(box.gpumod().turn("huge").__aenter__())
    assert "--force" not in refused.value.info.hint
    assert "gpumod ps" in refused.value.info.hint
    refused_by_name = box.ask("service_turn", TurnParams(service="huge"))
    assert refused_by_name.change.plan.alternatives == ()


def awake(box: Any) -> set[str]:
    return {service for service, state in box.world.states().items() if state == "ready"} - {"base"}


def test_eight_clients_with_three_turns_each_have_all_of_them_one_service_at_a_time(box: Any) -> None:
    had: list[tuple[int, str]] = []
    together: list[int] = []
    held: list[str] = []

    async def client(number: int) -> None:
        g = box.gpumod()
        for service in ("hyde", "rank", "chat"):
            async with g.turn(service, what=f"client {number}") as turn:
                assert turn.port == box.store.services()[service].port
                held.append(service)
                assert awake(box) == {service}
                await box.world.clock.sleep(0.5)
                assert awake(box) == {service}
                together.append(len(held))
                assert set(held) == {service}
                held.remove(service)
            had.append((number, service))

    async def all_of_them() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    box.world.clock.run(all_of_them())
    assert len(had) == len(set(had)) == 24
    assert max(together) > 1  # of one service several have it together
    assert [s for n, (_, s) in enumerate(had) if n == 0 or had[n - 1][1] != s] == ["hyde", "rank", "chat"]
    assert awake(box) == set()
    assert box.ask("mode_status", ModeRef(mode="rag")).whole
    assert most_mb(box.world.history)[0] <= 8000 - 512
    assert box.store.turns() == ()
    box.check_sound()


def test_who_waits_for_another_service_is_not_passed_for_ever(box: Any) -> None:
    order: list[str] = []

    async def user(service: str, name: str, after_s: float) -> None:
        await box.world.clock.sleep(after_s)
        async with box.gpumod().turn(service, what=name):
            order.append(name)
            await box.world.clock.sleep(3)

    async def all_of_them() -> None:
        await asyncio.gather(
            user("hyde", "first", 0), user("hyde", "joins", 1), user("rank", "other", 2), user("hyde", "later", 2.5)
        )

    box.world.clock.run(all_of_them())
    assert order == ["first", "joins", "other", "later"]
    assert awake(box) == set()


def test_a_turn_is_kept_by_every_plan_but_a_forced_one(box: Any) -> None:
    box.ask("service_turn", TurnParams(service="hyde", pid=7, what="ask.py"))
    for taken in ("service_sleep", "service_stop", "service_restart"):
        with pytest.raises(Busy) as caught:
            box.ask(taken, ServiceChange(service="hyde"))
        assert (caught.value.code, caught.value.exit_code) == ("leased", 5)
        assert caught.value.info.why == "the turn of somebody: ask.py (pid 7) holds it"
        assert "--force" in caught.value.info.hint
    box.ask("switch", SwitchParams(mode="blank"))
    assert box.world.states() == {"hyde": "ready"}
    refused = box.ask("service_start", ServiceChange(service="chat"))
    assert refused.exit_code == 3
    forced = box.ask("service_sleep", ServiceChange(service="hyde", force=True))
    assert any(note.startswith("passed over: somebody: ask.py (pid 7) has a turn") for note in forced.notes)
    assert box.world.states() == {"hyde": "asleep"}
    with pytest.raises(Busy):
        box.ask("service_stop", ServiceChange(service="hyde", cascade=True))
    box.ask("service_stop", ServiceChange(service="hyde", force=True))
    assert box.world.states() == {}


def test_a_holder_that_is_killed_holds_nothing_any_more(box: Any) -> None:
    box.ask("service_turn", TurnParams(service="hyde", pid=7))
    waiting = TurnParams(service="rank", pid=8, wait_s=2)
    with pytest.raises(Busy) as caught:
        box.ask("service_turn", waiting)
    assert caught.value.code == "no-turn"
    assert "somebody (pid 7) has a turn with hyde" in caught.value.info.why
    assert [ticket.pid for ticket in box.store.turns()] == [7]
    assert box.ask("status", NoParams()).turns == ("somebody (pid 7) has a turn with hyde",)
    box.world.gone.add(7)
    assert box.ask("mode_status", ModeRef(mode="rag")).whole  # one of them is awake, as it may be
    turn = box.ask("service_turn", waiting).turn
    assert awake(box) == {"rank"}
    assert [ticket.pid for ticket in box.store.turns()] == [8]
    box.end(turn.id)
    assert awake(box) == set()
    box.check_sound()


@pytest.mark.slow
def test_one_that_waits_and_is_killed_holds_nobody_up(box: Any) -> None:
    first = box.ask("service_turn", TurnParams(service="hyde", pid=7)).turn

    async def dies() -> None:
        task = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="rank", pid=8)))
        await box.world.clock.sleep(1)
        box.world.gone.add(8)
        await asyncio.wait_for(box.gpumod().service_turn(TurnParams(service="hyde", pid=9, wait_s=1)), 60)
        task.cancel()

    box.world.clock.run(dies())
    assert [ticket.pid for ticket in box.store.turns()] == [7, 9]
    box.end(first.id)
    assert awake(box) == {"hyde"}  # the other one is at it


def test_a_turn_that_cannot_be_had_leaves_nothing_behind(box: Any) -> None:
    box.world.fault("hyde", "wake-oom")
    result = box.ask("service_turn", TurnParams(service="hyde", pid=7))
    assert (result.turn, result.change.exit_code) == (None, 6)
    assert box.store.turns() == ()
    box.world.faults.clear()
    box.world.foreign(4000)

    async def enters() -> None:
        async with box.gpumod().turn("chat"):
            raise AssertionError("it is not awake")

    with pytest.raises(DoesNotFit):
        box.world.clock.run(enters())
    assert box.store.turns() == ()
    with pytest.raises(UnknownName):
        box.ask("service_turn", TurnParams(service="hide", pid=7))
    with pytest.raises(UnknownName):
        box.ask("service_turn", TurnParams(end="gone"))
    box.check_sound()


@pytest.mark.slow
def test_an_error_inside_a_turn_ends_it(box: Any) -> None:
    async def breaks() -> None:
        async with box.gpumod().turn("hyde"):
            raise OSError("the network is gone")

    with pytest.raises(OSError, match="network"):
        box.world.clock.run(breaks())
    assert (awake(box), box.store.turns()) == (set(), ())


@pytest.mark.slow
def test_somebody_who_changes_the_machine_is_waited_for(box: Any) -> None:
    box.world.holder = Holder(pid=7, user="ann", command="switch blank", home="/h", since=0.0)

    async def waits() -> str:
        task = asyncio.create_task(box.gpumod().service_turn(TurnParams(service="hyde", pid=8)))
        await box.world.clock.sleep(5)
        assert not task.done()
        box.world.holder = None
        return (await task).turn.service

    assert box.world.clock.run(waits()) == "hyde"


@pytest.mark.slow
def test_outside_of_a_mode_it_is_as_it_was_afterwards(box: Any) -> None:
    box.ask("switch", SwitchParams(mode="blank"))
    for service in ("alone", "hyde"):
        turn = box.ask("service_turn", TurnParams(service=service, pid=7)).turn
        assert box.world.states() == {service: "ready"}
        box.end(turn.id)
        assert box.world.states() == {}
    box.start("hyde")
    turn = box.ask("service_turn", TurnParams(service="hyde", pid=7)).turn
    box.end(turn.id)
    assert box.world.states() == {"hyde": "ready"}
