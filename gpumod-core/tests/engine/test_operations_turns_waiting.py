"""Who waits for a turn: it begins for nobody who has ended, and with what is meant by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gpumod.domain.errors import Failed
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.use_results import TurnParams
from gpumod.operations.watch_results import WatchParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("hyde", 3000, 9002, naps=True),
    quick_service("rank", 3000, 9003, naps=True),
    quick_service("alone", 500, 9004),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"), world_mode("wide", "hyde", "rank"))
AT_REST = {"hyde": "asleep", "rank": "asleep"}


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def waits(box: Any, service: str, then: Callable[[Gpumod], Awaitable[Any]], **asked: Any) -> Any:
    """The process 8 asks for a turn with a service; `then` happens a second later. What becomes of the asking."""

    async def both() -> Any:
        asking = asyncio.create_task(box.gpumod().service_turn(TurnParams(service=service, pid=8, **asked)))
        await box.world.clock.sleep(1)
        await then(box.gpumod())
        return await asyncio.wait_for(asking, 100)

    return box.world.clock.run(both())


@pytest.mark.parametrize("looks", [False, True])
def test_who_waits_and_is_killed_has_no_turn_though_nobody_is_in_the_way_any_more(box: Any, *, looks: bool) -> None:
    first = box.begin("hyde")

    async def is_killed(g: Gpumod) -> None:
        box.world.gone.add(8)
        if looks:  # whoever looks at the queue clears the ticket away
            await g.watch(WatchParams())
        await g.service_turn(TurnParams(end=first))

    with pytest.raises(Failed) as caught:
        waits(box, "rank", is_killed)
    assert (caught.value.code, caught.value.info.message) == ("turn-lost", "the turn with rank is lost")
    assert "somebody (pid 8) has ended" in caught.value.info.why
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_whose_place_in_the_queue_is_given_back_waits_no_more(box: Any) -> None:
    box.begin("hyde")

    async def gives_it_back(g: Gpumod) -> None:
        await g.service_turn(TurnParams(end=box.store.turns()[-1].id))

    with pytest.raises(Failed, match="the turn with rank is lost"):
        waits(box, "rank", gives_it_back)
    assert box.world.states() == {"hyde": "ready", "rank": "asleep"}


def test_nobody_is_woken_for_who_is_killed_while_the_machine_is_busy(box: Any) -> None:
    box.busy()

    async def is_killed(g: Gpumod) -> None:
        box.world.gone.add(8)
        box.world.holder = None
        await g.watch(WatchParams())

    with pytest.raises(Failed, match="the turn with rank is lost"):
        waits(box, "rank", is_killed)
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())


def test_what_is_defined_anew_while_a_turn_waits_for_the_machine_is_started_so(box: Any) -> None:
    box.busy()

    async def is_defined_anew(_: Gpumod) -> None:
        box.define(quick_service("alone", 700, 9014))
        box.world.holder = None

    made = waits(box, "alone", is_defined_anew)
    assert (made.turn.port, made.env) == (9014, {"GPUMOD_URL": "http://127.0.0.1:9014"})
    assert box.store.handles()["alone"].launched.vram_mb == 700


def test_a_turn_tells_where_the_service_answers_that_runs(box: Any) -> None:
    box.start("alone")
    box.define(quick_service("alone", 700, 9014))
    assert box.ask("service_turn", TurnParams(service="alone", pid=7)).env == {"GPUMOD_URL": "http://127.0.0.1:9004"}
