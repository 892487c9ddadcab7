"""A turn stands for what its service needs too: that has its place in the queue, and is put back after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.domain.errors import Busy
from gpumod.domain.mode import Want
from gpumod.domain.run import RunStatus
from gpumod.operations.params import NoParams, RecoverParams, ServiceChange
from gpumod.operations.use_results import TurnParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("base", 200, 9001),
    quick_service("hyde", 4000, 9002, naps=True, depends_on=("base",)),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("app", 200, 9004, depends_on=("hyde",)),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"), world_mode("wide", "hyde", "rank"))
AT_REST = {"base": "ready", "hyde": "asleep", "rank": "asleep"}
WITH_APP = {"app": "ready", "base": "ready", "hyde": "ready", "rank": "asleep"}
pytestmark = pytest.mark.slow


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


def whole(box: Any) -> None:
    assert (box.world.states(), box.store.turns()) == (AT_REST, ())
    assert box.ask("status", NoParams()).turns == ()
    box.check_sound()


@pytest.mark.parametrize("mb", [8000, 16_000])
@pytest.mark.parametrize(("first", "then"), [("rank", "app"), ("app", "rank")])
def test_what_needs_one_of_a_place_waits_for_the_others_of_it(make_box: Any, mb: int, first: str, then: str) -> None:
    box = make_box(mb, define=[*SERVICES, *MODES])
    box.switch("rag")
    mine = box.begin(first)
    with pytest.raises(Busy) as caught:
        box.ask("service_turn", TurnParams(service=then, pid=8, wait_s=1))
    assert (caught.value.code, caught.value.info.why) == ("no-turn", f"somebody (pid 7) has a turn with {first}")

    async def both() -> Any:
        asking = asyncio.create_task(box.gpumod().service_turn(TurnParams(service=then, pid=8)))
        await box.world.clock.sleep(1)
        await box.gpumod().service_turn(TurnParams(end=mine))
        return (await asking).turn.id

    other = box.world.clock.run(both())
    assert box.world.states() == (WITH_APP if then == "app" else {**AT_REST, "rank": "ready"})
    box.end(other)
    whole(box)


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_turn_alone_needs_is_put_back_after_it(box: Any, *, killed: bool) -> None:
    mine = box.begin("app")
    assert (box.world.states(), len(box.ask("status", NoParams()).turns)) == (WITH_APP, 1)
    if killed:
        box.world.gone.add(7)
        assert [done.subject for done in box.look().mended] == ["app", "hyde"]
    else:
        ended = box.end(mine)
        assert (ended.back.status, ended.notes) == (RunStatus.DONE, ())
    whole(box)


@pytest.mark.parametrize("last", ["hyde", "app"])
def test_what_a_turn_found_up_for_another_is_put_back_by_the_last_of_them(box: Any, last: str) -> None:
    turns = {"app": box.begin("app"), "hyde": box.begin("hyde", 8)}
    first = "app" if last == "hyde" else "hyde"
    box.end(turns[first])
    assert box.world.states()["hyde"] == "ready"
    box.end(turns[last])
    whole(box)


@pytest.mark.parametrize("way", ["resume", "rollback"])
def test_what_a_killed_turn_was_about_to_need_is_put_back(box: Any, way: str) -> None:
    copies: list[Any] = []
    box.when("start app before", lambda: copies.append(box.copy("killed")))
    box.begin("app")
    (later,) = copies
    later.world.gone.add(7)
    later.ask("recover", RecoverParams.model_validate({"way": way}))
    later.look()
    whole(later)
    later.close()


@pytest.mark.parametrize("who", ["watch", "a person"])
def test_what_sleeps_beside_what_it_needs_does_so_again_after_a_turn_that_was_killed(make_box: Any, who: str) -> None:
    below = quick_service("below", 500, 9001, naps=True)
    above = quick_service("above", 1000, 9002, naps=True, depends_on=("below",))
    box = make_box(8000, define=[below, above, world_mode("night", "below:asleep", "above:asleep")])
    box.switch("night")
    box.lose("above")
    if who == "a person":
        box.ask("service_sleep", ServiceChange(service="above"))
    box.look()
    assert (box.world.states(), box.store.turns()) == ({"below": "asleep", "above": "asleep"}, ())


def test_what_another_needs_is_left_as_a_person_has_wished_since(box: Any) -> None:
    mine = box.begin("app")
    box.ask("service_start", ServiceChange(service="hyde"))
    box.end(mine)
    assert box.world.states() == {"base": "ready", "hyde": "ready", "rank": "asleep"}
    assert box.store.turns() == ()


def test_a_person_who_starts_what_needs_one_of_a_place_puts_the_others_to_sleep(make_box: Any) -> None:
    box = make_box(16_000, define=[*SERVICES, *MODES])
    box.switch("rag")
    box.ask("service_wake", ServiceChange(service="rank"))
    box.ask("service_start", ServiceChange(service="app"))
    assert box.world.states() == WITH_APP


def test_what_a_service_in_use_needs_and_has_died_is_started_for_a_turn(box: Any) -> None:
    box.start("hyde")
    box.crash("base")
    mine = box.begin("hyde")
    assert (box.world.states()["base"], box.states()["base"]) == ("ready", "running")
    box.end(mine)
    assert box.world.states()["base"] == "ready"  # the mode needs it


def test_what_had_died_under_what_sleeps_stays_up_after_a_turn(box: Any) -> None:
    box.define(world_mode("blank"))
    box.switch("blank")
    box.start("hyde", want=Want.ASLEEP)
    box.crash("base")
    assert box.end(box.begin("hyde")).notes == ()
    assert (box.world.states(), box.store.turns()) == ({"base": "ready", "hyde": "asleep"}, ())


def test_who_is_awake_beside_it_makes_way_for_a_turn_with_what_runs(make_box: Any) -> None:
    box = make_box(16_000, define=[*SERVICES, *MODES])
    box.switch("rag")
    for service in ("hyde", "rank"):
        box.start(service)
    box.begin("hyde")
    assert box.world.states() == {**AT_REST, "hyde": "ready"}
