"""What every stand-in has: its id, its GPUs, its memory, time that passes faster, faults, an orderly end."""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH118

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping

from gpumod_sim import faults, law, procs
from gpumod_sim.http11 import HttpServer, Reply, Request
from gpumod_sim.ledger import Ledger, OutOfMemoryError
from gpumod_sim.machine import Machine

WATCH_S = 0.05
MIB = 1024 * 1024


class StartError(Exception):
    """The runtime cannot start: `lines` go to its log, `code` is its exit status."""

    def __init__(self, *lines: str, code: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.code = code


class StandIn:
    """One simulated process. Subclasses serve HTTP and say what memory is taken when.

    gpumod gives a service its id in GPUMOD_SERVICE, the memory it is expected to take over all its GPUs (MiB) in
    GPUMOD_VRAM_MB, and the indices of its GPUs in CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, folder: str, program: str, environ: Mapping[str, str] = os.environ) -> None:
        self.machine = Machine(folder)
        self.ledger = Ledger(self.machine, guest=True)
        self.program = program
        self.service = environ.get("GPUMOD_SERVICE") or program
        expected = environ.get("GPUMOD_VRAM_MB", "")
        self.expected_mb = int(expected) if expected.isdigit() else None
        self.visible = _visible(environ.get("CUDA_VISIBLE_DEVICES"), [card["index"] for card in self.machine.gpus()])
        self.started_at = time.time()
        self.server = HttpServer(self.answer)
        self.ready = False
        self.ended = asyncio.Event()
        self.exit_code = 0
        self.worker_mb: dict[int, int] = {}  # what a worker in its own session holds in our place
        self._counts: dict[str, int] = {}
        self._serving: asyncio.Task[None] | None = None

    # --- to be provided ---------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Start up and listen. Raises StartError."""
        raise NotImplementedError

    async def handle(self, request: Request) -> Reply:
        raise NotImplementedError

    async def stop(self) -> None:
        """End in an orderly way, after SIGTERM or SIGINT."""
        await self.server.close()

    # --- time, faults, memory ---------------------------------------------------------------------------------------

    def log(self, *lines: str) -> None:
        print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201  # a runtime's log is its output

    def fault(self, kind: str) -> float | None:
        return faults.value(self.machine, self.service, kind)

    async def pass_time(self, seconds: float, what: str) -> None:
        """Let `seconds` of published time pass, with noise, at the machine's speed."""
        count = self._counts[what] = self._counts.get(what, 0) + 1
        config = self.machine.config()
        await asyncio.sleep(seconds * law.noise(config.get("seed", 1), self.service, what, count) / config["speed"])

    async def pass_start_time(self, seconds: float, what: str) -> None:
        await self.pass_time(seconds * (self.fault("slow-start") or 1.0), what)

    async def pause_if_never_ready(self) -> None:
        if self.fault("never-ready") is not None:
            self.log("simulated fault: never-ready")
            await asyncio.Event().wait()

    def hold(self, mb: Mapping[int, int]) -> None:
        """Hold exactly `mb` on each GPU named. Raises OutOfMemoryError, which changes nothing."""
        self.ledger.hold(self.service, {gpu: max(0, amount - self.worker_mb.get(gpu, 0)) for gpu, amount in mb.items()})

    def hold_ram(self, mb: int) -> None:
        """Hold `mb` of host RAM. Raises OutOfMemoryError where the machine's RAM is simulated."""
        self.ledger.hold(self.service, {}, ram_mb=mb)

    def shared_out(self, mb: int, gpus: list[int]) -> dict[int, int]:
        """`mb` in equal parts over `gpus`, the first taking the rest."""
        if not gpus:
            return {}
        part = mb // len(gpus)
        return {gpu: part + (mb - part * len(gpus) if gpu == gpus[0] else 0) for gpu in gpus}

    async def spawn_worker(self, gpu: int) -> None:
        """With the fault `setsid-worker`: a process in a session of its own takes over part of our memory."""
        amount = self.fault("setsid-worker")
        if amount is None:
            return
        held = sum(row["mb"] for row in self.ledger.rows() if row["pid"] == os.getpid() and row["gpu"] == gpu)
        part = min(int(amount), held)
        self.ledger.hold(self.service, {gpu: held - part}, at_once=True)
        worker = os.path.join(self.machine.folder, "libexec", f"{self.program}-worker")
        argv = [worker, self.service, str(gpu), str(part)]
        await asyncio.to_thread(procs.start_and_hear, argv, os.environ)
        self.worker_mb[gpu] = part

    # --- running ----------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Reply:
        if self.fault("hang") is not None:
            await asyncio.Event().wait()
        return await self.handle(request)

    def end(self, code: int) -> None:
        self.exit_code = code
        self.ended.set()

    def on_signal(self) -> None:
        if self.fault("ignore-sigterm") is not None:
            self.log("simulated fault: ignore-sigterm")
        elif self.ready:
            self.end(0)
        else:
            self.end_while_starting()

    def end_while_starting(self) -> None:
        """Killed by the signal, as a program that does not handle it yet."""
        self.ledger.leave(os.getpid())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    async def _watch(self) -> None:
        """Die when told so by a fault, and end with the machine: one that was deleted has no processes."""
        while True:
            await asyncio.sleep(WATCH_S)
            if not self.machine.exists():
                os._exit(1)
            after = self.fault("die-after")
            if after is not None:
                begun = max(self.started_at, faults.set_at(self.machine, self.service, "die-after"))
                if time.time() - begun >= after:
                    self.log("RuntimeError: CUDA error: an illegal memory access was encountered (simulated fault)")
                    self.ledger.leave(os.getpid())
                    os._exit(1)

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)
        watch = loop.create_task(self._watch())
        starting = loop.create_task(self.serve())
        ended = loop.create_task(self.ended.wait())
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises StartError
            await ended
            await self.stop()
        except StartError as error:
            self.log(str(error))
            return error.code
        finally:
            for task in (watch, starting, ended):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, StartError):
                    await task
        return self.exit_code

    def run(self) -> int:
        """Run until a signal or a failure; the exit status."""
        try:
            return asyncio.run(self._run())
        finally:
            if self.machine.exists():
                self.ledger.leave(os.getpid())


def _visible(text: str | None, cards: list[int]) -> list[int]:
    """The GPUs of CUDA_VISIBLE_DEVICES (indices or UUIDs) up to the first that does not exist, as CUDA does it."""
    if text is None:
        return cards
    visible: list[int] = []
    for part in text.split(","):
        number = part.strip().removeprefix("GPU-sim-").removeprefix("MIG-sim-")
        if not number.isdigit() or int(number) not in cards:
            break
        visible.append(int(number))
    return visible


def gib(mb: float) -> str:
    return f"{mb / 1024:.2f}"


def oom_line(error: OutOfMemoryError) -> str:
    """PyTorch's own words for `error`."""
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {error.need_mb:.2f} MiB. GPU {error.gpu or 0} "
        f"has a total capacity of {gib(error.total_mb)} GiB of which {error.free_mb:.2f} MiB is free."
    )
