"""A stand-in for `llama-server`: one model, or (without a model) a router. This module: command line and one model."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from gpumod_sim import law
from gpumod_sim.flags import FlagError, Flags, parse
from gpumod_sim.http11 import Reply, Request, bind
from gpumod_sim.ledger import OutOfMemoryError
from gpumod_sim.llama_flags import ALIASES, MODEL_CONTEXT, TABLE
from gpumod_sim.llama_http import LlamaHttp
from gpumod_sim.standin import MIB, StandIn, StartError

BUILD = "b11434-sim"
DEFAULT_MB = 500
READY, ASLEEP, EXIT = "cmd_child_to_router:ready", "cmd_child_to_router:sleep", "cmd_router_to_child:exit"
ASLEEP_MB = 300  # the CUDA context that stays when the model is dropped


def main(folder: str, argv: Sequence[str]) -> int:
    """The `llama-server` program of the machine in `folder`. Returns the exit status."""
    try:
        flags = parse(argv, TABLE, ALIASES, with_equals=False)
    except FlagError as error:
        handling = f'error while handling argument "{error.flag}": '
        words = {"missing": f"{handling}expected value for argument", "invalid": f"{handling}stoi"}
        sys.stderr.write(words.get(error.kind, f"error: invalid argument: {error.flag}") + "\n")
        return 1
    if flags.rest:
        sys.stderr.write(f"error: invalid argument: {flags.rest[0]}\n")
        return 1
    if "version" in flags:
        sys.stderr.write(f"version: 11434 ({BUILD})\nbuilt with gpumod-sim for Linux\n")
        return 0
    if "model" in flags or "hf-repo" in flags:
        try:
            server = Llama(folder, flags)
        except OSError as error:
            sys.stderr.write(f'error while handling argument "--api-key-file": {error}\n')
            return 1
        return server.run()
    from gpumod_sim.llama_router import Router  # noqa: PLC0415  # a single model does not need it

    return Router(folder, flags).run()


class Llama(StandIn):
    """One model in one process. It is a router's child when LLAMA_SERVER_ROUTER_PORT is in the environment."""

    def __init__(self, folder: str, flags: Flags) -> None:
        super().__init__(folder, "llama-server")
        self.flags = flags
        self.model = flags.text("model") or flags.text("hf-repo")
        self.is_child = "LLAMA_SERVER_ROUTER_PORT" in os.environ
        self.n_ctx = flags.whole("ctx-size", 0) or MODEL_CONTEXT
        self.full_mb = self.shared_out(self._wanted_mb(), self._devices())
        self.asleep = False
        self.last_use = time.monotonic()
        self.turn = asyncio.Lock()
        self.http = LlamaHttp(self)
        self.helpers: list[asyncio.Task[None]] = []

    def _devices(self) -> list[int]:
        """The GPUs that the model is spread over: all that are visible, or what the options choose of them."""
        if self.flags.text("n-gpu-layers", "auto") == "0":
            return []
        if "device" in self.flags:
            names = self.flags.text("device").split(",")
            return [gpu for number, gpu in enumerate(self.visible) if f"CUDA{number}" in names]
        if self.flags.text("split-mode") == "none":
            main = self.flags.whole("main-gpu", 0)
            return self.visible[main : main + 1]
        return self.visible

    def _wanted_mb(self) -> int:
        if self.expected_mb is not None:
            return self.expected_mb
        try:
            size_mb = os.path.getsize(self.model) // MIB  # noqa: PTH202 - a stand-in starts often: pathlib costs start-up time
        except OSError:
            return DEFAULT_MB
        return size_mb + int(self.n_ctx / 1024 * size_mb / 40)

    # --- starting ---------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        host, port = self.flags.text("host", "127.0.0.1"), self.flags.whole("port", 8080)
        try:
            await self.server.serve(bind(host, port))
        except OSError as error:
            raise StartError(f"srv start: couldn't bind HTTP server socket, hostname: {host}, port: {port}") from error
        if self.is_child:
            self.helpers.append(asyncio.get_running_loop().create_task(self._obey_router()))
        self.log(f"build: 11434 ({BUILD})", f"srv    load_model: loading model '{self.model}'")
        self._refuse_bad_model()
        if self.fault("cpu-fallback") is not None:
            self.full_mb = {}
        await self.pass_start_time(0.3, "init")
        try:
            if self.fault("oom-at-start") is not None:
                raise OutOfMemoryError(min(self.full_mb, default=0), sum(self.full_mb.values()), 0, 0)
            self.hold(self.full_mb)
        except OutOfMemoryError as error:
            raise StartError(*self._oom_lines(error)) from error
        await self.pass_start_time(law.llama_load_s(sum(self.full_mb.values())), "load")
        for gpu in self.full_mb:
            await self.spawn_worker(gpu)
        await self.pause_if_never_ready()
        self.ready = True
        self.last_use = time.monotonic()
        self.log("main: model loaded", f"main: server is listening on http://{host}:{port}")
        self.tell_router(READY)
        if self.flags.whole("sleep-idle-seconds", -1) >= 0:
            self.helpers.append(asyncio.get_running_loop().create_task(self._sleep_when_idle()))

    def _refuse_bad_model(self) -> None:
        name = os.path.basename(self.model).lower()  # noqa: PTH119 - a stand-in starts often: pathlib costs start-up time
        why = (
            "No such file or directory"
            if "missing" in name
            else "invalid magic characters"
            if "corrupt" in name
            else ""
        )
        if why:
            raise StartError(
                f"gguf_init_from_file: failed to open GGUF file '{self.model}' ({why})",
                "llama_model_load: error loading model: llama_model_loader: failed to load model from " + self.model,
                f"srv    load_model: failed to load model, '{self.model}'",
                "main: exiting due to model loading error",
            )

    def _oom_lines(self, error: OutOfMemoryError) -> list[str]:
        device = self.visible.index(error.gpu) if error.gpu in self.visible else 0
        where = f"allocating {error.need_mb:.2f} MiB on device {device}"
        return [
            f"ggml_backend_cuda_buffer_type_alloc_buffer: {where}: cudaMalloc failed: out of memory",
            f"alloc_tensor_range: failed to allocate CUDA{device} buffer of size {error.need_mb * MIB}",
            f"llama_model_load: error loading model: unable to allocate CUDA{device} buffer",
            f"srv    load_model: failed to load model, '{self.model}'",
            "main: exiting due to model loading error",
        ]

    # --- sleeping by itself -------------------------------------------------------------------------------------------

    async def _sleep_when_idle(self) -> None:
        idle_s = self.flags.whole("sleep-idle-seconds", -1)
        while True:
            await asyncio.sleep(0.05)
            if self.asleep or self.http.in_flight or time.monotonic() - self.last_use < idle_s:
                continue
            async with self.turn:
                self.log("srv    update_slots: server is entering sleeping state")
                self.hold({gpu: min(mb, ASLEEP_MB) for gpu, mb in self.full_mb.items()})
                self.asleep = True
                self.tell_router(ASLEEP)

    async def be_awake(self) -> None:
        """Reload the model when it was dropped. One that cannot be reloaded ends the process."""
        async with self.turn:
            if not self.asleep:
                return
            try:
                if self.fault("wake-oom") is not None:
                    raise OutOfMemoryError(min(self.full_mb, default=0), sum(self.full_mb.values()), 0, 0)
                self.hold(self.full_mb)
            except OutOfMemoryError as error:
                self.log(*self._oom_lines(error))
                self.ledger.leave(os.getpid())
                os.abort()
            await self.pass_time(law.llama_load_s(sum(self.full_mb.values())), "load")
            self.asleep = False
            self.tell_router(READY)

    # --- as a child of a router ---------------------------------------------------------------------------------------

    def tell_router(self, what: str) -> None:
        if self.is_child:
            print(what, flush=True)  # noqa: T201  # the router reads our output

    async def _obey_router(self) -> None:
        """Exit when the router says so, or when it is gone."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if line.strip() == EXIT.encode() and self.fault("ignore-sigterm") is None:
                self.server.stop_listening()
                await self.http.idle.wait()  # it does not end with requests in flight: the router kills it then
                await self.pass_time(law.llama_unload_s(), "unload")
                break
        self.end(0)

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Reply:
        return await self.http.handle(request)

    def on_signal(self) -> None:
        if self.is_child and self.fault("ignore-sigterm") is None:
            # HTTP stops and the process stays, with its memory: the router still believes that it is loaded.
            self.server.stop_listening()
            for connection in list(self.server.connections):
                connection.transport.close()
        else:
            super().on_signal()

    async def stop(self) -> None:
        for task in self.helpers:
            task.cancel()
        await self.server.close()
