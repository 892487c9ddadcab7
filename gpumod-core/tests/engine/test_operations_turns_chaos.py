"""Many turns, some of whose holders are killed, while a person is at it: everybody who lives has what was promised."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from gpumod.domain.errors import Busy, Failed
from gpumod.operations.params import ModeRef, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.operations.watch_results import WatchParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("base", 200, 9001),
    quick_service("hyde", 4000, 9002, naps=True, depends_on=("base",)),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("alone", 500, 9004),
)
MODES = (world_mode("rag", "hyde:time-shared", "rank:time-shared"),)
AT_REST = {"base": "ready", "hyde": "asleep", "rank": "asleep"}


class Crowd:
    """Users and a person on one world; `chance` decides."""

    def __init__(self, box: Any, seed: int) -> None:
        self.box, self.chance, self.pids = box, random.Random(seed), itertools.count(100)
        self.over = False
        self.refused: list[str] = []

    async def uses(self, turns: int) -> None:
        for _ in range(turns):
            await self.box.world.clock.sleep(self.chance.random() * 2)
            await self.turn(self.chance.choice(["hyde", "hyde", "rank", "alone"]), next(self.pids))

    async def turn(self, service: str, pid: int) -> None:
        begun = (await self.box.gpumod().service_turn(TurnParams(service=service, pid=pid))).turn
        for _ in range(self.chance.randrange(1, 4)):
            assert self.box.world.states()[service] == "ready"
            assert service != "hyde" or self.box.world.states()["base"] == "ready"
            await self.box.world.clock.sleep(self.chance.random())
        assert self.box.world.states()[service] == "ready"
        if self.chance.random() < 0.3:
            self.box.world.gone.add(pid)
        else:
            await self.box.gpumod().service_turn(TurnParams(end=begun.id))

    async def meddles(self) -> None:
        while not self.over:
            await self.box.world.clock.sleep(self.chance.random())
            g, named = self.box.gpumod(), {"service": self.chance.choice(["hyde", "rank", "alone", "base"])}
            what = self.chance.choice(["sleep", "stop", "restart", "switch", "watch"])
            try:
                if what == "switch":
                    await g.switch(SwitchParams(mode="rag"))
                elif what == "watch":
                    await g.watch(WatchParams())
                else:
                    await getattr(g, f"service_{what}")(ServiceChange(**named, cascade=True))
            except (Busy, Failed) as error:
                self.refused.append(error.code)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 7))])
def test_whoever_has_a_turn_keeps_it_and_afterwards_all_is_as_before(make_box: Any, seed: int) -> None:
    box = make_box(8000, define=[*SERVICES, *MODES])
    box.switch("rag")
    crowd = Crowd(box, seed)

    async def day() -> None:
        person = asyncio.create_task(crowd.meddles())
        await asyncio.gather(*(crowd.uses(2) for _ in range(4)))
        crowd.over = True
        await person

    box.world.clock.run(day())
    assert {*crowd.refused} <= {"leased", "machine-busy", "not-running"}
    assert box.store.open_run() is None
    box.ask("switch", SwitchParams(mode="rag"))
    box.look()
    assert box.world.states() == AT_REST
    assert box.store.turns() == ()
    assert box.ask("mode_verify", ModeRef(mode="rag")).whole
    box.check_sound()
