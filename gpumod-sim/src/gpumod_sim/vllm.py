"""A stand-in for `vllm serve`: its command line, start-up, memory and failures. The HTTP surface is in vllm_http."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from gpumod_sim import law
from gpumod_sim.flags import FlagError, Flags, parse
from gpumod_sim.http11 import Reply, Request, bind
from gpumod_sim.ledger import OutOfMemoryError
from gpumod_sim.standin import MIB, StandIn, StartError, gib, oom_line
from gpumod_sim.vllm_end import last_words
from gpumod_sim.vllm_engine import Engine
from gpumod_sim.vllm_flags import ALIASES, CHOICES, TABLE, guessed_weights_mb, size_bytes
from gpumod_sim.vllm_http import VllmHttp
from gpumod_sim.vllm_program import VERSION

USAGE = "usage: vllm serve [model_tag] [options]\n"
DEFAULT_UTILIZATION = 0.92


def main(folder: str, argv: Sequence[str]) -> int:
    """`vllm serve` on the machine in `folder`. Returns the exit status."""
    if list(argv[:1]) != ["serve"]:
        sys.stderr.write("usage: vllm [-h] [-v] {serve} ...\nvllm: error: the stand-in knows 'serve' and '--version'\n")
        return 2
    try:
        flags = _checked(parse(argv[1:], TABLE, ALIASES))
    except FlagError as error:
        what = {"unknown": "unrecognized arguments:", "missing": "argument", "invalid": "argument"}[error.kind]
        detail = {"unknown": "", "missing": ": expected one argument", "invalid": f": {error.detail}"}[error.kind]
        sys.stderr.write(f"{USAGE}vllm serve: error: {what} {error.flag}{detail}\n")
        return 2
    return Vllm(folder, flags).run()


def _checked(flags: Flags) -> Flags:
    for name, choices in CHOICES.items():
        if name in flags and flags.text(name) not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise FlagError("invalid", f"--{name}", f"invalid choice: '{flags.text(name)}' (choose from {listed})")
    if "kv-cache-memory-bytes" in flags:
        try:
            size_bytes(flags.text("kv-cache-memory-bytes"))
        except ValueError:
            text = flags.text("kv-cache-memory-bytes")
            raise FlagError("invalid", "--kv-cache-memory-bytes", f"invalid value: '{text}'") from None
    if len(flags.rest) > 1:
        raise FlagError("unknown", " ".join(flags.rest[1:]))
    return flags


class Vllm(StandIn):
    """A vLLM server: it takes its share of every GPU that it runs on, whatever is expected of it."""

    def __init__(self, folder: str, flags: Flags) -> None:
        super().__init__(folder, "vllm")
        self.flags = flags
        self.model = flags.rest[0] if flags.rest else flags.text("model", "Qwen/Qwen3-0.6B")
        self.gpus = self.visible[: flags.whole("tensor-parallel-size", 1)]
        self.utilization = flags.number("gpu-memory-utilization", DEFAULT_UTILIZATION)
        self.weights_mb = guessed_weights_mb(self.model, flags.text("quantization"))  # over all GPUs; None: not known
        self.engine = Engine(self, self.gpus, sleep_mode=flags.on("enable-sleep-mode"))
        self.http = VllmHttp(self, self.engine)

    async def handle(self, request: Request) -> Reply:
        return await self.http.handle(request)

    async def serve(self) -> None:
        dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE", "0")
        if not dev_mode.lstrip("-").isdigit():
            raise StartError(f"ValueError: invalid literal for int() with base 10: '{dev_mode}'")
        try:
            # Bound before the engine starts, and listening only when it is up. (vLLM's own default is every interface.)
            sock = bind(self.flags.text("host", "127.0.0.1"), self.flags.whole("port", 8000))
        except OSError as error:
            raise StartError(f"OSError: [Errno {error.errno}] {error.strerror}") from error
        self.log(f"INFO vLLM API server version {VERSION}", f"INFO model {self.model}")
        if int(dev_mode):
            self.log(
                "WARNING SECURITY WARNING: Development endpoints are enabled! This should NOT be used in production!"
            )
        await self.pass_start_time(law.vllm_import_s(), "import")
        try:
            await self._start_engine()
        except OutOfMemoryError as error:
            raise _failed(
                oom_line(error),
                "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free "
                "memory for weights, increasing --tensor-parallel-size, or using --quantization.",
            ) from error
        await self.pause_if_never_ready()
        await self.server.serve(sock)
        self.ready = True
        self.log("INFO Application startup complete.")

    async def _start_engine(self) -> None:
        """Check what is free, load, profile and take the rest, as vLLM does. Raises OutOfMemoryError."""
        if len(self.gpus) < self.flags.whole("tensor-parallel-size", 1):
            raise _failed(f"RuntimeError: {len(self.gpus)} CUDA GPUs are available, and more are wanted.")
        wanted = {gpu: self._wanted_mb(gpu) for gpu in self.gpus}
        free = {gpu: self.ledger.free_mb(gpu) for gpu in self.gpus}
        if self.fault("oom-at-start") is not None:
            raise OutOfMemoryError(self.gpus[0], wanted[self.gpus[0]], 0, self.ledger.total_mb(self.gpus[0]) or 0)
        by_kv = "kv-cache-memory-bytes" in self.flags
        for gpu in self.gpus:
            if free[gpu] < self._share_mb(gpu):
                raise _failed(self._too_little_free(gpu, free[gpu]))
        on_gpu = self.fault("cpu-fallback") is None
        weights = {gpu: self._weights_mb(wanted[gpu]) for gpu in self.gpus}
        self.hold({gpu: min(law.CONTEXT_MB, wanted[gpu]) for gpu in self.gpus if on_gpu})
        await self.pass_start_time(law.vllm_load_s(max(weights.values())), "load")
        loaded = {gpu: weights[gpu] + law.CONTEXT_MB for gpu in self.gpus}
        if self.weights_mb is None:
            loaded = {gpu: min(loaded[gpu], wanted[gpu]) for gpu in self.gpus}
        self.hold(loaded if on_gpu else {})
        await self.pass_start_time(law.vllm_compile_s(eager=self.flags.on("enforce-eager")), "compile")
        if not by_kv and on_gpu:
            for gpu in self.gpus:
                wanted[gpu] -= self._grown_by_others(gpu, free[gpu] - loaded[gpu])
                if wanted[gpu] < loaded[gpu]:
                    raise _failed(
                        "ValueError: No available memory for the cache blocks. Try increasing "
                        "`gpu_memory_utilization` when initializing the engine."
                    )
        self._refuse_long_context()
        self.hold(wanted if on_gpu else {})
        self.engine.settled(wanted if on_gpu else dict.fromkeys(wanted, 0), weights)
        for gpu in self.gpus:
            await self.spawn_worker(gpu)

    def _refuse_long_context(self) -> None:
        """With the fault `short-context`: as vLLM ends where its KV cache does not hold one request of full length."""
        most, asked = self.fault("short-context"), self.http.max_model_len
        if most is None or asked <= most:
            return
        raise _failed(
            f"ValueError: To serve at least one request with the models's max seq len ({asked}), "
            f"({asked / 8192:.2f} GiB KV cache is needed, which is larger than the available KV cache memory "
            f"({most / 8192:.2f} GiB). Based on the available memory, the estimated maximum model length is "
            f"{int(most)}. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing "
            "the engine."
        )

    def _grown_by_others(self, gpu: int, expected_free: int) -> int:
        """What others took on `gpu` while we measured (it counts as ours). Raises StartError if others gave back."""
        now = self.ledger.free_mb(gpu)
        if now > expected_free:
            raise _failed(
                f"AssertionError: Error in memory profiling. Initial free memory {gib(expected_free)} GiB, current "
                f"free memory {gib(now)} GiB. This happens when other processes sharing the same container release "
                "GPU memory while vLLM is profiling during initialization. To fix this, ensure consistent GPU memory "
                "allocation or isolate vLLM in its own container."
            )
        return expected_free - now

    def _share_mb(self, gpu: int) -> int:
        return int(self.utilization * (self.ledger.total_mb(gpu) or 0) + 1e-6)

    def _wanted_mb(self, gpu: int) -> int:
        """What the options say that it takes on `gpu`, in MiB."""
        if "kv-cache-memory-bytes" not in self.flags:
            return self._share_mb(gpu)
        kv = size_bytes(self.flags.text("kv-cache-memory-bytes")) // MIB
        count = max(1, len(self.gpus))
        if self.weights_mb is None:
            return max((self.expected_mb or 0) // count, kv + law.CONTEXT_MB)
        return self.weights_mb // count + kv + law.CONTEXT_MB

    def _weights_mb(self, wanted_mb: int) -> int:
        """The weights on a GPU: by the model's name, whatever it may take; else all but a context and a little KV."""
        if self.weights_mb is not None:
            return self.weights_mb // max(1, len(self.gpus))
        return max(0, int((wanted_mb - law.CONTEXT_MB) * 0.9))

    def _too_little_free(self, gpu: int, free_mb: int) -> str:
        total = self.ledger.total_mb(gpu) or 0
        device = f"cuda:{self.gpus.index(gpu)}"
        return (
            f"ValueError: Free memory on device {device} ({gib(free_mb)}/{gib(total)} GiB) on startup is less than "
            f"desired GPU memory utilization ({self.utilization}, {gib(self.utilization * total)} GiB). "
            "Decrease GPU memory utilization or reduce GPU memory used by other processes."
        )

    async def stop(self) -> None:
        self.server.stop_listening()
        drain_s = self.flags.whole("shutdown-timeout", 0)
        if drain_s:
            await self.engine.drained(drain_s)
        self.engine.abort_all()
        await asyncio.sleep(0)
        await self.pass_time(1.0, "stop")
        await self.server.close()


def _failed(*reasons: str) -> StartError:
    return StartError(*last_words(*reasons))
