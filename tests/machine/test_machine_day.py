"""A day of traffic on the simulated machine, scaled: an hour lasts about a second. It leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from gpumod.bootstrap import open_gpumod
from tests.machine.conftest import wait_until
from tests.machine.test_machine_use import generate, turns

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]

HOURS = 24
SETTLED_AT = 11
"""By this hour everything has happened once: from then on nothing may grow."""
SETTINGS = {"watch_interval_s": 1, "health_interval_s": 1, "idle_timeout_s": 2, "restart_window_s": 1}
SHARED = ("hyde", "reranker")
PATIENCE_S = 90.0
MORE_MB = 8
"""So much may the memory of `gpumod watch` differ between two moments: allocators keep what was freed."""


class Day:
    """What happens in each hour: somebody works, and now and then something goes wrong."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.chance = random.Random(5)

    async def work(self, service: str) -> None:
        """A turn, with a request in it."""
        async with open_gpumod(self.machine.home).turn(service, what="day", wait_s=60):
            await asyncio.to_thread(self._ask, service)

    def _ask(self, service: str) -> None:
        if service == "hyde":
            generate(self.machine, service, 0.05)
        else:
            self.machine.ask(service)

    def hour(self, hour: int) -> None:
        users = self.chance.sample(SHARED, k=1 + hour % 2)

        async def together() -> None:
            await asyncio.gather(*(self.work(service) for service in users))

        asyncio.run(together())
        if hour % 12 == 2:
            self.crash("embedding")
        if hour % 12 == 5:
            self.lose_a_holder()
        if hour % 12 == 8:
            self.by_hand()

    def crash(self, service: str) -> None:
        """A service dies; `watch` brings it back."""
        (pid,) = [row["pid"] for row in self.machine.status()["services"] if row["id"] == service]
        os.kill(pid, signal.SIGKILL)
        self.until_running(service)

    def until_running(self, service: str) -> None:

        wait_until(lambda: self.machine.states().get(service) == "running", f"{service} to be back")

    def lose_a_holder(self) -> None:
        """Somebody who has a turn is killed, with gpumod and all."""
        process = self.machine.begin("service", "turn", "hyde", "--", "sleep", "60")

        awake = ("hyde", "running")
        wait_until(lambda: turns(self.machine) == [("hyde", 1)], "the turn to begin", PATIENCE_S)
        wait_until(lambda: awake in self.machine.states().items(), "it to be awake", PATIENCE_S)
        (pid,) = self.machine.sql("SELECT pid FROM turns")[0]
        process.kill()
        os.kill(pid, signal.SIGKILL)
        process.wait()

    def by_hand(self) -> None:
        """A person wakes something, uses it, and forgets it."""
        self.machine.gpumod("service", "wake", "hyde")


def files_of(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*") if "-wal" not in path.name and "-shm" not in path.name)


def seen_of(machine: Machine, watch: psutil.Process) -> dict[str, Any]:
    def fds() -> int:
        time.sleep(0.1)
        return watch.num_fds()

    looks = [fds() for _ in range(15)]
    return {
        "rss_mb": watch.memory_info().rss / 2**20,
        "fds_least": min(looks),  # while it looks it has some more, and between two looks some less
        "fds_most": max(looks),
        "threads": watch.num_threads(),
        "files": files_of(machine.home),
    }


@pytest.mark.timeout(300)
def test_a_day_of_traffic_leaves_nothing_behind_and_nothing_grows(
    machine: Machine, until: Any, record_property: Any
) -> None:
    for key, value in SETTINGS.items():
        machine.ok("settings", "set", key, str(value))
    machine.ok("mode", "create", "day", "--services", "embedding,hyde,reranker", "--sleep-on-idle", ",".join(SHARED))
    machine.change("switch", "day")
    asleep = machine.held()
    process = machine.begin("watch")
    watch, day = psutil.Process(process.pid), Day(machine)
    settled: dict[str, Any] = {}
    for hour in range(HOURS):
        day.hour(hour)
        if hour == SETTLED_AT:
            settled = seen_of(machine, watch)
    until(
        lambda: machine.states() == {"embedding": "running", "hyde": "sleeping", "reranker": "sleeping"}, "the evening"
    )
    until(lambda: turns(machine) == [], "the last turn to be cleared away")
    at_night = seen_of(machine, watch)
    record_property("settled", settled)
    record_property("at_night", at_night)
    assert at_night["rss_mb"] - settled["rss_mb"] < MORE_MB, (settled, at_night)
    assert at_night["fds_least"] <= settled["fds_most"] + 1, (settled, at_night)
    assert at_night["threads"] <= settled["threads"] + 1, (settled, at_night)
    assert at_night["files"] <= settled["files"], (settled, at_night)
    assert machine.held() == asleep
    assert machine.sql("SELECT 1 FROM leases") == []
    assert machine.status()["open_run"] is None
    machine.whole("day")
    process.send_signal(signal.SIGTERM)
    assert machine.end(process).code == 0
    machine.change("switch", "blank")
    machine.nothing_left()
