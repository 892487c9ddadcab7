"""The router's children: starting one, hearing that it is loaded, stopping it, sending it requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from gpumod_sim import faults
from gpumod_sim.http11 import Reply, Request
from gpumod_sim.llama_flags import MODEL_CONTEXT, Preset
from gpumod_sim.machine import Machine

READY, ASLEEP, EXIT = b"cmd_child_to_router:ready", b"cmd_child_to_router:sleep", b"cmd_router_to_child:exit"


class ProxyError(Exception):
    """A child could not be asked."""


class Child:
    """One model of the router. `value` is what the API calls its status; a failure is `unloaded` with an exit code."""

    def __init__(
        self, preset: Preset, program: str, router_port: int, machine: Machine, log: Callable[..., None]
    ) -> None:
        self.preset, self.program, self.router_port = preset, program, router_port
        self.machine, self.log = machine, log
        self.value = "unloaded"
        self.exit_code: int | None = None
        self.port = 0
        self.created = int(time.time())
        self.last_use = 0.0
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.stopping = False
        self.process: asyncio.subprocess.Process | None = None
        self.was_loaded = False
        self.gone = asyncio.Event()  # no process
        self.gone.set()
        self.known = asyncio.Event()  # loaded, or failed
        self._minder: asyncio.Task[None] | None = None
        self._lingering: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        return not self.gone.is_set()

    def argv(self) -> list[str]:
        port = str(self.port)
        return [self.program, "--host", "127.0.0.1", "--port", port, "--alias", self.preset.name, *self.preset.argv()]

    def entry(self) -> dict[str, Any]:
        """What GET /models shows."""
        status: dict[str, Any] = {"value": self.value, "args": self.argv(), "preset": self.preset.text()}
        if self.exit_code:
            status |= {"exit_code": self.exit_code, "failed": True}
        entry = {
            "id": self.preset.name, "aliases": self.preset.aliases, "tags": [], "object": "model",
            "owned_by": "llamacpp", "created": self.created, "status": status, "source": "preset", "can_remove": False,
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        }  # fmt: skip
        if self.value == "loaded":
            context = int(self.preset.options.get("ctx-size", "0")) or MODEL_CONTEXT
            size = (self.preset.vram_mb or 500) * 1024 * 1024
            entry["meta"] = {"n_ctx": context, "n_ctx_train": MODEL_CONTEXT, "n_embd": 1024, "n_params": size,
                             "size": size, "n_vocab": 151936, "vocab_type": 2, "ftype": "Q8_0"}  # fmt: skip
        return entry

    # --- starting and stopping --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the process; return when it is started, which is long before it is loaded."""
        self.value, self.exit_code, self.stopping = "loading", None, False
        self.gone.clear()
        self.known.clear()
        self.last_use = time.monotonic()
        self.port = _free_port()
        self.log(f"srv  load: spawning server instance with name={self.preset.name} on port {self.port}")
        if self.was_loaded and self.fault("wake-oom") is not None:
            where = f"allocating {self.preset.vram_mb or 500}.00 MiB on device 0: cudaMalloc failed: out of memory"
            self.log(f"[{self.port}] ggml_backend_cuda_buffer_type_alloc_buffer: {where}")
            self._ended(1)
            return
        environment = {**os.environ, "LLAMA_SERVER_ROUTER_PORT": str(self.router_port)}
        environment |= {"GPUMOD_SERVICE": self.preset.name}
        environment.pop("GPUMOD_VRAM_MB", None)
        if self.preset.vram_mb is not None:
            environment["GPUMOD_VRAM_MB"] = str(self.preset.vram_mb)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.argv(),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            self.log(f"srv  load: failed to start {self.program}: {error}")
            self._ended(1)
            return
        self._minder = asyncio.get_running_loop().create_task(self._mind(self.process))

    async def _mind(self, process: asyncio.subprocess.Process) -> None:
        """Copy what the child writes to our log, hear what it says of itself, and see it end."""
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        while line := await process.stdout.readline():
            said = line.strip()
            if said == READY:
                self.value, self.was_loaded = "loaded", True
                self.known.set()
            elif said == ASLEEP:
                self.value = "sleeping"
            else:
                self.log(f"[{self.port}] {line.decode('utf-8', 'replace').rstrip()}")
        code = await process.wait()
        if self.process is process:
            self._ended(code)

    def fault(self, kind: str) -> float | None:
        return faults.value(self.machine, self.preset.name, kind)

    def linger(self) -> None:
        """Count as unloaded, with a process that goes on holding its memory until the fault is cleared."""
        if self.process:
            task = asyncio.get_running_loop().create_task(self._outlast_fault(self.process))
            self._lingering.add(task)
            self._ended(0)

    async def _outlast_fault(self, process: asyncio.subprocess.Process) -> None:
        while self.fault("sleep-frees-nothing") is not None and process.returncode is None:
            await asyncio.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def _ended(self, code: int) -> None:
        self.value, self.stopping = "unloaded", False
        self.exit_code = 1 if code else None  # every failure is a 1, a signal too
        self.process = None
        self.gone.set()
        self.known.set()

    async def settled(self) -> bool:
        """Wait until it is loaded or has failed; True when it is loaded."""
        await self.known.wait()
        return self.value in ("loaded", "sleeping")

    async def stop(self) -> None:
        """Ask the child to exit, wait for its stop-timeout, kill it. One that still loads is killed at once."""
        process = self.process
        if process is None or self.stopping:
            await self.gone.wait()
            return
        if self.value == "loading":
            process.kill()
        else:
            self.stopping = True
            assert process.stdin is not None  # noqa: S101  # a pipe was asked for
            process.stdin.write(EXIT + b"\n")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), self.preset.stop_timeout_s)
            if self.running:
                self.log(f"srv  unload: force-killing model instance name={self.preset.name}")
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
        await self.gone.wait()


async def forward(request: Request, port: int) -> Reply:
    """Send `request` to a child and return its answer. Raises ProxyError."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        raise ProxyError("Could not establish connection") from error
    try:
        head = f"{request.method} {request.target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(request.body)}\r\n\r\n".encode("latin-1") + request.body)
        answer = await reader.read()
    except OSError as error:
        raise ProxyError("Failed to read connection") from error
    finally:
        writer.close()
    top, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        raise ProxyError("Failed to read connection")
    lines = top.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    return Reply(int(lines[0].split(" ")[1]), body, headers.get("content-type", "application/json"))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
