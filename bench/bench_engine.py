"""The engine: a switch that starts 1, 4 and 10 services, against the same stand-ins started by hand side by side.

"By hand" is the stand-ins' own critical path: spawn them all, and look every millisecond until each answers healthy.

Measured twice: at the published times of real services, where a start is mostly waiting (2.4 s for one of these); and
50 times as fast, as a demonstration runs, where it is mostly this computer starting one Python for each stand-in.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Row, plain_environment
from gpumod.bootstrap import open_gpumod
from gpumod.domain.mode import ModeMember
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import RunStatus, StepStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import InitParams, ModeWrite, NoParams, ServiceWrite, SwitchParams
from gpumod_sim.machine import Machine

COUNTS = (1, 4, 10)
SPEEDS = (1.0, 50.0)
REPEATS = 3
VRAM_MB = 1000


def measure() -> Iterator[Row]:
    """A simulated home in a temporary folder, with ten HTTP services of 1000 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="gpumod-bench-"))
    try:
        yield from _measure(Bench(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(bench: Bench) -> Iterator[Row]:
    for speed in SPEEDS:
        bench.at_speed(speed)
        suffix = "" if speed == 1 else f", {speed:g} times as fast"
        alone_s = 0.0
        for count in COUNTS:
            by_hand_s = bench.by_hand(count)
            alone_s = alone_s or by_hand_s
            switch_s = bench.switch(count)
            what = f"switch that starts {count}{suffix}"
            by_hand, aim = "by hand, side by side", "" if count == 1 else "within 1.10"
            yield Row(what=what, seconds=switch_s, against=by_hand, against_seconds=by_hand_s, aim=aim)
            aim = "+25 ms" if count == 1 else ""
            yield Row(what=f"{what}: more than by hand", seconds=switch_s - by_hand_s, aim=aim)
            if count > 1:
                yield Row(what=what, seconds=switch_s, against="one by one", against_seconds=alone_s * count)
        ready = f"a service that got ready is noticed after{suffix}"
        yield Row(what=ready, seconds=bench.noticed(), aim="within 25 ms")


class Bench:
    """A home with services `s0` to `s9` and modes `m1`, `m4`, `m10`, and the ways to start them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        asyncio.run(open_gpumod(self.home, plain_environment()).init(InitParams(sim=(("card", 24564),))))
        self.ports = [_free_port() for _ in range(max(COUNTS))]
        asyncio.run(self._define(open_gpumod(self.home, plain_environment())))

    async def _define(self, g: Gpumod) -> None:
        for n, port in enumerate(self.ports):
            fields = {"driver": "fastapi", "port": port, "vram_mb": VRAM_MB}
            command = ["uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}"]
            await g.service_add(ServiceWrite(id=f"s{n}", fields=fields, unit_vars={"command": command}))
        for count in COUNTS:
            members = tuple(ModeMember(service=f"s{n}") for n in range(count))
            await g.mode_create(ModeWrite(id=f"m{count}", members=members))

    def at_speed(self, factor: float) -> None:
        Machine(str(self.home / "sim")).configure(speed=factor)

    def switch(self, count: int) -> float:
        """Seconds from the plan to done."""
        return statistics.median(asyncio.run(self._switch(count))[0] for _ in range(REPEATS))

    def noticed(self) -> float:
        """Seconds from the moment that the stand-in was ready (its log's last change) to the step's end."""
        return statistics.median(asyncio.run(self._switch(1))[1] for _ in range(REPEATS))

    async def _switch(self, count: int) -> tuple[float, float]:
        g = open_gpumod(self.home, plain_environment())
        times: dict[str, float] = {}

        def note(news: Progress) -> None:
            if news.kind is ProgressKind.PLANNED:
                times["planned"] = time.perf_counter()
            elif news.step is not None and news.step.service == "s0" and news.step_status is StepStatus.DONE:
                times["done"] = time.time()

        result = await g.switch(SwitchParams(mode=f"m{count}"), progress=note)
        took_s = time.perf_counter() - times["planned"]
        assert result.status is RunStatus.DONE, result
        ready_at = (self.home / "logs" / "s0.log").stat().st_mtime
        await g.switch(SwitchParams(mode="blank"))
        assert all(row.state == "stopped" for row in (await g.status(NoParams())).services)
        return took_s, times["done"] - ready_at

    def by_hand(self, count: int) -> float:
        """Seconds until `count` stand-ins, spawned at once, all answer healthy."""
        return statistics.median(self._by_hand(count) for _ in range(REPEATS))

    def _by_hand(self, count: int) -> float:
        program = str(self.home / "sim" / "bin" / "uvicorn")
        environ = plain_environment(GPUMOD_VRAM_MB=str(VRAM_MB), CUDA_VISIBLE_DEVICES="0")
        began = time.perf_counter()
        ports = self.ports[:count]
        processes = [
            subprocess.Popen(
                [program, "app:app", "--host", "127.0.0.1", "--port", str(port)],
                env={**environ, "GPUMOD_SERVICE": f"s{n}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for n, port in enumerate(ports)
        ]
        waiting = set(ports)
        while waiting:
            waiting = {port for port in waiting if not _is_healthy(port)}
            time.sleep(0.001)
        took_s = time.perf_counter() - began
        for process in processes:
            process.terminate()
            process.wait()
        time.sleep(0.5)  # the ledger forgets them after its lag
        return took_s


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
