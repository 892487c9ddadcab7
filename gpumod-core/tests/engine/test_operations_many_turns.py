"""Turns are many: what people did is known all the same."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from gpumod.domain.plan import Plan, Target, VerdictKind
from gpumod.domain.run import Run, RunStatus
from gpumod.operations.params import FreeParams, ServiceChange
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (world_service("web", 3000, 9001), world_service("nap", 4000, 9002, naps=True))
MODES = (world_mode("on", "web", "nap"), world_mode("off"))
MANY = 201


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("on")
    return made


def many_turns(box: Any) -> None:
    now = box.world.clock.now()
    plan = Plan(id="p", target=Target(), verdict=VerdictKind.FITS)
    with box.store.together():
        for n in range(MANY):
            command = ("turn chat", "turn chat: over", "watch: sleep chat", "service sleep-idle")[n % 4]
            run = {"command": command, "status": RunStatus.DONE, "target": Target(), "plan": plan, "started_at": now}
            box.store.add_run(Run(id=uuid.uuid4().hex, holder="h", **run))


def test_nothing_is_put_back_where_somebody_switched_and_turns_came_after(box: Any) -> None:
    box.ask("free", FreeParams(mb=4000))
    box.switch("off")
    many_turns(box)
    (note,) = box.ask("free", FreeParams(back=True)).notes
    assert "switched to a mode since" in note
    assert box.world.states() == {}


def test_what_somebody_stopped_is_not_restarted_where_turns_came_after(box: Any) -> None:
    seen = box.look()
    box.world.fault("nap", "die-after", 0.1)
    box.crash("nap")
    seen = box.look(seen)
    assert seen.mended[0].error is not None
    box.world.faults.clear()
    box.pass_time(60)
    for operation in ("service_start", "service_stop"):
        box.ask(operation, ServiceChange(service="nap"))
    many_turns(box)
    assert box.look(seen).mended == ()
    assert box.world.states() == {"web": "ready"}
