"""A turn inside a turn: with the same service it goes on with that, with another one of the place it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gpumod.domain.errors import Busy, Failed
from gpumod.domain.progress import Progress
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.use_results import TurnParams
from gpumod.ports import Local
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("hyde", 4000, 9002, naps=True),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("alone", 500, 9004),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"),)


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def test_one_task_with_a_turn_goes_on_with_it_but_does_not_wait_for_itself(box: Any) -> None:
    g, order = box.gpumod(), list[str]()

    async def other() -> None:
        async with box.gpumod().turn("rank"):
            order.append("rank")

    async def nests() -> None:
        async with g.turn("hyde"):
            waits = asyncio.create_task(other())
            await box.world.clock.sleep(1)
            async with g.turn("hyde"), g.turn("alone"):  # though somebody waits for another service
                order.append("hyde")
            with pytest.raises(Failed) as caught:
                async with g.turn("rank"):
                    raise AssertionError("it has no turn")
            assert caught.value.code == "own-turn"
            assert "has a turn with hyde" in caught.value.info.why
            assert box.world.states() == {"hyde": "ready", "rank": "asleep"}
        await waits
        async with g.turn("rank"):
            order.append("again")

    box.world.clock.run(asyncio.wait_for(nests(), 100))
    assert order == ["hyde", "rank", "again"]
    assert box.store.turns() == ()
    assert box.world.states() == {"hyde": "asleep", "rank": "asleep"}


def test_other_tasks_of_a_process_wait_for_each_other(box: Any) -> None:
    g, order = box.gpumod(), list[str]()

    async def inner() -> None:
        async with g.turn("rank"):
            order.append("rank")

    async def outer() -> None:
        async with g.turn("hyde"):
            task = asyncio.create_task(inner())  # as it is inside of the turn, but it is not waited for there
            await box.world.clock.sleep(1)
            order.append("hyde")
        await task

    box.world.clock.run(asyncio.wait_for(outer(), 100))
    assert order == ["hyde", "rank"]


class Family:
    """A computer on which the process 7 has started the process 8."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    def tree(self, pid: int) -> Sequence[int]:
        return (7, 8) if pid == 7 else (pid,)


def test_a_command_inside_of_a_turn_is_told_that_it_waits_for_it(box: Any) -> None:
    machine = box.machine()
    g, told = Gpumod(replace(machine, local=Family(machine.local)), bare_tools()), list[Progress]()

    async def nested() -> None:
        await g.service_turn(TurnParams(service="hyde", pid=7))
        waits = asyncio.create_task(g.service_turn(TurnParams(service="rank", pid=9, wait_s=3)))
        await box.world.clock.sleep(1)
        assert (await g.service_turn(TurnParams(service="hyde", pid=8))).turn is not None
        with pytest.raises(Busy):
            await g.service_turn(TurnParams(service="rank", pid=8, wait_s=1), told.append)
        with pytest.raises(Busy):
            await waits

    box.world.clock.run(asyncio.wait_for(nested(), 100))
    assert [news.text.endswith("started inside that turn, and waits for it to end") for news in told] == [True]
