"""The engine behind the vLLM stand-in: what is resident, what runs, what waits; sleep and wake as vLLM does them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpumod_sim import law
from gpumod_sim.ledger import OutOfMemoryError
from gpumod_sim.standin import oom_line

if TYPE_CHECKING:
    from gpumod_sim.standin import StandIn

TAGS = ("weights", "kv_cache")


class EngineError(Exception):
    """The engine could not do it: HTTP 500."""


class Generation:
    """One request: it produces tokens while the scheduler runs, and can be cut short."""

    def __init__(self, tokens: int) -> None:
        self.wanted = tokens
        self.done = 0
        self.aborted = asyncio.Event()


class Engine:
    """`sleep_mode` is --enable-sleep-mode: without it sleeping pauses the scheduler and frees nothing."""

    def __init__(self, owner: StandIn, gpus: list[int], *, sleep_mode: bool) -> None:
        self.owner, self.gpus, self.sleep_mode = owner, gpus, sleep_mode
        self.held_mb: dict[int, int] = {}
        self.weights_mb: dict[int, int] = {}
        self.asleep: set[str] = set()  # the tags that are not resident
        self.level: int | None = None  # of the last sleep; stays after a repeated call, as vLLM's metric does
        self.weights_lost = False
        self.slept_before = False
        self.awake = asyncio.Event()
        self.awake.set()
        self.stands_still = False  # running requests wait for `awake` as new ones do
        self.running: set[Generation] = set()
        self.waiting = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.counters = {"prompt_tokens": 0, "generation_tokens": 0}
        self.finished = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self.operation: str | None = None  # "sleep" or "wake" while one is under way
        self._turn = asyncio.Lock()

    def settled(self, held_mb: dict[int, int], weights_mb: dict[int, int]) -> None:
        self.held_mb, self.weights_mb = held_mb, weights_mb

    @property
    def is_sleeping(self) -> bool:
        return bool(self.asleep) or not self.awake.is_set()

    @property
    def _largest_mb(self) -> int:
        return max(self.weights_mb.values(), default=0)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def generate(self, prompt_tokens: int, tokens: int) -> Generation:
        """Run one request; it waits while the engine sleeps."""
        self.waiting += 1
        try:
            await self.awake.wait()
        finally:
            self.waiting -= 1
        if self.asleep:
            self.owner.log("RuntimeError: CUDA error: an illegal memory access was encountered", "EngineDeadError")
            self.owner.end(1)
            raise EngineError("EngineCore encountered an issue.")
        generation = Generation(tokens)
        self.running.add(generation)
        self.idle.clear()
        try:
            speed = self.owner.machine.speed()
            begun = time.monotonic()
            while generation.done < generation.wanted and not generation.aborted.is_set():
                if self.stands_still:  # kept by a sleep: it goes on afterwards
                    await self.awake.wait()
                    begun = time.monotonic() - generation.done * law.TOKEN_S / speed
                left = (generation.wanted - generation.done) * law.TOKEN_S / speed
                await _wait(generation.aborted, min(left, 0.02))
                generation.done = min(generation.wanted, int((time.monotonic() - begun) * speed / law.TOKEN_S))
        finally:
            self.running.discard(generation)
            if not self.running:
                self.idle.set()
        self.counters["prompt_tokens"] += prompt_tokens
        self.counters["generation_tokens"] += generation.done
        self.finished["abort" if generation.aborted.is_set() else "length"] += 1
        return generation

    def abort_all(self) -> None:
        for generation in self.running:
            generation.aborted.set()

    async def drained(self, timeout_s: float) -> None:
        await _wait(self.idle, timeout_s)

    # --- sleeping ---------------------------------------------------------------------------------------------------

    async def sleep(self, level: int, mode: str) -> None:
        """Pause, and at level 1 or 2 free memory. `mode` is abort, wait or keep. Raises EngineError.

        The scheduler is paused first: with `wait` it says that it sleeps while requests still run and all memory is
        held. A wake meanwhile resumes it, and does not call off what is to come: it falls asleep under a scheduler
        that runs.
        """
        self.awake.clear()
        is_late = mode == "wait" and bool(self.running)
        if is_late:
            await self.idle.wait()
        async with self._turn:
            if not is_late:
                self.awake.clear()
            self.stands_still = not self.awake.is_set()
            if mode == "abort":
                self.abort_all()
            self.level = level
            if level == 0:
                return
            if "weights" in self.asleep:
                self.owner.log("WARNING Executor is already sleeping.")
                return
            self.operation = "sleep"
            try:
                await self._fall_asleep(level)
            finally:
                self.operation = None

    async def _fall_asleep(self, level: int) -> None:
        frees = self.sleep_mode and self.owner.fault("sleep-frees-nothing") is None
        if frees and level == 1:
            try:
                self.owner.hold_ram(sum(self.weights_mb.values()))
            except OutOfMemoryError as error:
                self._resume()
                raise EngineError("CUDA error: out of memory (pinned host memory for the weights)") from error
        begun = time.monotonic()
        seconds = law.sleep_s(level, self._largest_mb)
        if level == 1 and not self.slept_before:
            seconds *= law.tail(self.owner.machine.config().get("seed", 1), self.owner.service, "first sleep")
            self.slept_before = True
        await self.owner.pass_time(seconds, "sleep")
        if frees:
            self.owner.hold(self._resident(set(TAGS)))
        self.asleep = set(TAGS)
        self.weights_lost = level == 2 and frees
        freed = sum(self.held_mb.values()) - sum(self._resident(self.asleep).values()) if frees else 0
        took_s = (time.monotonic() - begun) * self.owner.machine.speed()
        self.owner.log(
            f"INFO Sleep mode freed {freed / 1024:.2f} GiB memory.",
            f"INFO It took {took_s:.6f} seconds to fall asleep.",
        )

    async def wake(self, tags: Iterable[str] | None) -> None:
        """Make `tags` (None: all) resident again. Raises EngineError when the memory is not there."""
        async with self._turn:
            wanted = set(TAGS) if tags is None else set(tags)
            unknown = wanted - {*TAGS, "scheduling"} | (wanted & set(TAGS)) - self.asleep
            if tags is not None and unknown:
                self.owner.log(f"WARNING Tags {sorted(unknown)} are not asleep.")
            coming = wanted & self.asleep
            if coming:
                self.operation = "wake"
                try:
                    await self._come_back(coming)
                finally:
                    self.operation = None
            if not self.asleep:
                self.level = None
                self._resume()

    def _resume(self) -> None:
        self.stands_still = False
        self.awake.set()

    async def _come_back(self, coming: set[str]) -> None:
        if self.owner.fault("wake-oom") is not None:
            gpu = self.gpus[0] if self.gpus else 0
            self._out_of_memory(
                OutOfMemoryError(gpu, self.held_mb.get(gpu, 0), 0, self.owner.ledger.total_mb(gpu) or 0)
            )
        still = self.asleep - coming
        try:
            # Memory is mapped first, then filled.
            if self.sleep_mode:
                self.owner.hold(self._resident(still))
        except OutOfMemoryError as error:
            self._out_of_memory(error)
        begun = time.monotonic()
        fills = "weights" in coming and not self.weights_lost
        await self.owner.pass_time(law.wake_s(self._largest_mb) if fills else law.wake_discarded_s(), "wake")
        self.asleep = still
        if "weights" in coming:
            self.owner.hold_ram(0)
        took_s = (time.monotonic() - begun) * self.owner.machine.speed()
        self.owner.log(f"INFO It took {took_s:.6f} seconds to wake up tags {sorted(coming)}.")

    def _out_of_memory(self, error: OutOfMemoryError) -> None:
        self.owner.log("ERROR CUDA Error: out of memory at cumem_allocator.cpp:62", f"ERROR {oom_line(error)}")
        raise EngineError("CUDA Error: out of memory") from error

    async def reload_weights(self) -> None:
        if "weights" in self.asleep:
            raise EngineError("reload_weights: the weights are not resident")
        await self.owner.pass_time(law.reload_s(self._largest_mb), "reload")
        self.weights_lost = False

    def _resident(self, asleep: set[str]) -> dict[int, int]:
        """What is held on each GPU while the tags in `asleep` are not resident, in MiB."""
        held: dict[int, int] = {}
        for gpu, full in self.held_mb.items():
            weights = self.weights_mb[gpu]
            rest = law.vllm_residue_mb(weights, full)
            weights = min(weights, full - rest)
            held[gpu] = rest + (weights if "weights" not in asleep else 0)
            if "kv_cache" not in asleep:
                held[gpu] += full - rest - weights
        return held


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
