"""Turns whose holders are gone: somebody leaves the service as it is to be, and until then that is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.domain.errors import Busy
from gpumod.domain.mode import Want
from gpumod.domain.run import RunStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef, NoParams, RecoverParams, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import quick_service, world_mode

pytestmark = pytest.mark.slow

SERVICES = (
    quick_service("hyde", 4000, 9002, naps=True),
    quick_service("rank", 3000, 9003, naps=True),
    quick_service("alone", 500, 9004),
    quick_service("base", 200, 9005),
    quick_service("front", 200, 9006, depends_on=("base",)),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"), world_mode("on", "front", "alone"))
TOLD = "alone is awake for a turn that is over (somebody (pid 7)): gpumod service sleep alone"


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    return made


@pytest.mark.parametrize(("service", "left"), [("hyde", "asleep"), ("alone", None)])
def test_watch_ends_the_turn_of_one_that_was_killed(box: Any, service: str, left: str | None) -> None:
    box.lose(service)
    seen = box.look()
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("sleep", service, None)
    assert done.why == "the turn of somebody (pid 7) is over, and nobody has put it back"
    assert box.world.states().get(service) == left
    assert (box.store.turns(), box.look(seen).mended) == ((), ())
    assert [event.kind for event in box.store.events(50) if event.kind.startswith("turn-")] == [
        "turn-lost",
        "turn-began",
    ]
    box.check_sound()


def test_without_watch_the_next_change_says_what_is_awake_for_nobody(box: Any) -> None:
    box.lose("alone")
    assert TOLD in box.ask("service_start", ServiceChange(service="base")).notes
    assert box.ask("recover", RecoverParams()).notes == (TOLD,)
    assert box.ask("status", NoParams()).turns == (TOLD,)
    assert TOLD not in box.ask("service_sleep", ServiceChange(service="alone")).notes
    assert box.store.turns() == ()
    assert TOLD not in box.ask("service_start", ServiceChange(service="alone")).notes
    assert box.look().mended == ()  # that is meant


def test_what_is_put_away_meanwhile_is_nothing_to_tell(box: Any) -> None:
    box.lose("hyde")
    box.begin("rank", 8)
    assert [ticket.pid for ticket in box.store.turns()] == [8]


def test_who_comes_next_leaves_it_as_the_one_who_was_killed_has_found_it(box: Any) -> None:
    box.lose("alone")
    mine = box.begin("alone", 8)
    box.end(mine)
    assert "alone" not in box.world.states()
    assert box.store.turns() == ()


def test_watch_waits_for_who_works_and_leaves_alone_what_fails(box: Any) -> None:
    box.lose("hyde")
    box.busy("switch on")
    assert box.look().mended == ()
    box.world.holder = None
    box.world.fault("hyde", "sleep-500")
    seen = box.look()
    (done,) = seen.mended
    assert done.error is not None
    assert box.look(seen).mended == ()


@pytest.mark.parametrize("late", [False, True])
def test_who_joins_while_a_turn_ends_leaves_it_as_the_first_has_found_it(box: Any, *, late: bool) -> None:
    first = box.begin("alone")

    async def both() -> Any:
        gpumod = Gpumod(box.machine(), bare_tools())
        if late:  # the first waits for somebody who changes the machine, and has given its turn back
            box.busy("apply --now")
        ending = asyncio.create_task(gpumod.service_turn(TurnParams(end=first)))
        await box.world.clock.sleep(1 if late else 0)
        second = asyncio.create_task(gpumod.service_turn(TurnParams(service="alone", pid=8)))
        await box.world.clock.sleep(0.2)
        box.world.holder = None
        await ending
        turn = (await second).turn
        assert box.world.states()["alone"] == "ready"
        return await gpumod.service_turn(TurnParams(end=turn.id))

    box.world.clock.run(both())
    assert "alone" not in box.world.states()
    assert box.store.turns() == ()


def test_what_lost_its_gpu_is_not_restarted_under_who_uses_it(box: Any) -> None:
    box.define(world_mode("on", "front", "hyde"))
    box.switch("on")
    seen = box.look()
    mine = box.begin("hyde")
    box.world.alive()["hyde"].mb = {}
    box.crash("front")
    seen = box.look(seen)
    assert [done.subject for done in seen.mended] == ["front"]
    (note,) = seen.notes
    assert note.startswith("hyde is restarted when nobody uses it: somebody (pid 7) has a turn with hyde; it answers")
    assert box.store.events_of("watch-restart", limit=9)[0].subject == "front"
    box.end(mine)
    (done,) = box.look(seen).mended
    assert (done.subject, done.error) == ("hyde", None)


def test_a_turn_that_begins_while_a_run_is_open_is_told_of_by_recover(box: Any) -> None:
    box.world.fault("front", "never-ready")
    failed = box.ask("switch", SwitchParams(mode="on", no_rollback=True))
    assert failed.status is RunStatus.HALF_WAY
    assert box.world.states()["alone"] == "ready"
    box.begin("alone")
    box.world.faults.clear()
    back = box.ask("recover", RecoverParams(way="rollback"))
    assert (back.change.exit_code, back.notes) == (0, ("passed over: somebody (pid 7) has a turn with alone",))
    assert "alone" not in box.world.states()


def test_recover_goes_on_only_without_what_is_in_use(box: Any) -> None:
    mine = box.begin("hyde")
    box.world.fault("hyde", "unkillable")
    assert box.ask("service_stop", ServiceChange(service="hyde", force=True, no_rollback=True)).exit_code == 7
    box.world.faults.clear()
    with pytest.raises(Busy) as caught:
        box.ask("recover", RecoverParams(way="resume"))
    assert caught.value.code == "leased"
    forced = box.ask("recover", RecoverParams(way="resume", force=True))
    assert (forced.change.exit_code, forced.notes) == (0, ("passed over: somebody (pid 7) has a turn with hyde",))
    assert "hyde" not in box.world.states()
    assert box.end(mine).back is None


def test_what_was_slept_by_a_person_and_is_needed_is_missed(box: Any) -> None:
    box.define(quick_service("base", 200, 9005, naps=True, idle_timeout=60), world_mode("tower", "front", "base"))
    box.switch("tower")
    assert box.ask("mode_verify", ModeRef(mode="tower")).whole
    box.start("base", want=Want.ASLEEP)
    status = box.ask("mode_verify", ModeRef(mode="tower"))
    assert (status.whole, [member.service for member in status.members if not member.ok]) == (False, ["base"])
