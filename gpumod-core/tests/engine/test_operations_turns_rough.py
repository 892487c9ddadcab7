"""Turns on a bad day: signals, cancelled tasks, kills, and people. What is awake in the end is so for somebody."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Awaitable
from typing import Any

import pytest

from gpumod.domain.errors import Busy, Failed, HalfWay
from gpumod.operations.params import NoParams, RecoverParams, ServiceChange, SwitchParams
from gpumod.operations.use_results import TurnParams
from gpumod.operations.watch_results import WatchParams
from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("base", 200, 9001),
    quick_service("hyde", 4000, 9002, naps=True, depends_on=("base",)),
    quick_service("rank", 4500, 9003, naps=True),
    quick_service("alone", 500, 9004),
    quick_service("app", 200, 9005, depends_on=("hyde",)),
)
MODES = (world_mode("rag", "base", "hyde:time-shared", "rank:time-shared"),)
FOR_TURNS = ("hyde", "rank", "alone", "app")
"""What is brought up by nothing but turns here: nobody else wants it awake."""
ACTS = ("sleep", "wake", "start", "stop")


class Day:
    """Users and a person on one world; `chance` decides who is cancelled, killed, or sent a signal, and when."""

    def __init__(self, box: Any, seed: int) -> None:
        self.box, self.chance, self.pids = box, random.Random(seed), itertools.count(100)
        self.killed_at, self.acts, self.over = self.chance.randrange(10, 120), 0, False
        self.copies: list[Any] = []
        box.every = self.acted

    def acted(self, label: str) -> None:
        self.acts += 1
        if self.acts == self.killed_at:
            self.copies.append(self.box.copy("killed"))
        if not self.over and label.split(maxsplit=1)[0] in ACTS and self.chance.random() < 0.06:
            signal.raise_signal(signal.SIGINT)

    async def tried(self, work: Awaitable[Any]) -> Any:
        """What `work` gives; None where it is refused, or cancelled as some are."""
        task = asyncio.ensure_future(work)
        if self.chance.random() < 0.25:
            await self.box.world.clock.sleep(self.chance.random() * 1.5)
            task.cancel()
        try:
            return await task
        except (Busy, Failed, HalfWay, asyncio.CancelledError):
            return None

    async def uses(self) -> None:
        for _ in range(3):
            await self.box.world.clock.sleep(self.chance.random() * 2)
            pid = next(self.pids)
            had = [await self.turn(self.chance.choice(["hyde", "hyde", "rank", "alone", "app"]), pid)]
            if had[0] is not None and had[0].service == "hyde" and self.chance.random() < 0.5:
                had.append(await self.turn("app", pid))
            await self.box.world.clock.sleep(self.chance.random())
            if self.chance.random() < 0.3:
                self.box.world.gone.add(pid)
            for turn in had:
                if turn is not None and pid not in self.box.world.gone:
                    await self.tried(self.box.gpumod().service_turn(TurnParams(end=turn.id)))
                    await self.box.world.clock.sleep(self.chance.random())

    async def turn(self, service: str, pid: int) -> Any:
        asked = TurnParams(service=service, pid=pid, wait_s=60)  # who has one already may wait for who waits for that
        made = await self.tried(self.box.gpumod().service_turn(asked))
        return made and made.turn

    async def meddles(self) -> None:
        while not self.over:
            await self.box.world.clock.sleep(self.chance.random())
            g, what = self.box.gpumod(), self.chance.choice(["sleep", "stop", "switch", "watch", "watch"])
            if self.box.store.open_run() is not None and self.box.world.holder is None:
                way = self.chance.choice(["resume", "rollback"])
                await self.tried(g.recover(RecoverParams.model_validate({"way": way})))
            elif what == "switch":
                await self.tried(g.switch(SwitchParams(mode="rag")))
            elif what == "watch":
                await self.tried(g.watch(WatchParams()))
            else:
                service = self.chance.choice(["hyde", "rank", "alone"])
                await self.tried(getattr(g, f"service_{what}")(ServiceChange(service=service)))


def check_nobody_is_awake_for_nobody(box: Any) -> None:
    for _ in range(3):
        if box.store.open_run() is None:
            break
        box.ask("recover", RecoverParams(way="resume"))
    assert box.store.open_run() is None
    seen = box.look()
    awake = {service for service in FOR_TURNS if box.world.states().get(service) == "ready"}
    assert box.ask("status", NoParams()).turns == ()
    assert box.store.turns() == (), seen
    assert not awake, seen


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))])
def test_what_is_awake_after_a_bad_day_is_so_for_somebody(make_box: Any, seed: int) -> None:
    box = make_box(8000, define=[*SERVICES, *MODES])
    box.switch("rag")
    day = Day(box, seed)

    async def lasts() -> None:
        person = asyncio.create_task(day.meddles())
        await asyncio.gather(*(day.uses() for _ in range(4)))
        day.over = True
        await person

    box.world.clock.run(lasts())
    check_nobody_is_awake_for_nobody(box)
    box.check_sound()
    for killed in day.copies:
        killed.world.gone |= {*range(100, next(day.pids))}
        check_nobody_is_awake_for_nobody(killed)
        killed.close()
