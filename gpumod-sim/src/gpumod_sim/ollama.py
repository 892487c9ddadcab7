"""A stand-in for `ollama serve`: the models of OLLAMA_MODELS, loaded and unloaded by HTTP, each in its own process.

A model is a manifest under `manifests/` in that folder, as Ollama writes it; its weights need not be there. Faults are
set on the name of a model (`llama3:8b`).
"""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH118

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from gpumod_sim import faults, law
from gpumod_sim.http11 import Reply, Request, bind, json_reply
from gpumod_sim.ollama_models import LIBRARY, Model, models_in
from gpumod_sim.standin import StandIn, StartError

VERSION = "0.12.3"
DEFAULT_KEEP_S = 300.0
RUNS_MB = law.CONTEXT_MB
"""What a runner takes beside the weights (MiB)."""
OUT_OF_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"


def main(folder: str, argv: Sequence[str]) -> int:
    """The `ollama` program of the machine in `folder`. Returns the exit status."""
    if list(argv) == ["--version"]:
        print(f"ollama version is {VERSION}")  # noqa: T201 - what the real program prints
        return 0
    if list(argv) != ["serve"]:
        sys.stderr.write(f'Error: unknown command {" ".join(argv)!r} for "ollama"\n')
        return 1
    return Ollama(folder).run()


class Loaded:
    """A model with its runner. `until` is when it is unloaded by itself (monotonic seconds), None: never."""

    def __init__(self, model: Model, process: asyncio.subprocess.Process, until: float | None) -> None:
        self.model, self.process, self.until = model, process, until
        self.in_flight = 0
        self.expired = False


class Ollama(StandIn):
    def __init__(self, folder: str) -> None:
        super().__init__(folder, "ollama")
        self.models_dir = os.environ.get("OLLAMA_MODELS") or os.path.expanduser("~/.ollama/models")  # noqa: PTH111 - a stand-in starts often: pathlib costs start-up time
        self.loaded: dict[str, Loaded] = {}
        self.turn = asyncio.Lock()
        self.keeper: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
        await self.pause_if_never_ready()
        try:
            sock = bind(host, int(port))
        except OSError as error:
            raise StartError(f"Error: listen tcp {host}:{port}: bind: address already in use") from error
        await self.server.serve(sock)
        self.keeper = asyncio.get_running_loop().create_task(self._keep())
        self.ready = True
        self.log(f'msg="Listening on {host}:{port} (version {VERSION})"')

    async def stop(self) -> None:
        await super().stop()
        for name in list(self.loaded):
            await self._unload(name)

    async def handle(self, request: Request) -> Reply:
        known = {model.name: model for model in models_in(self.models_dir)}
        at = f"{request.method} {request.path}"
        if at == "GET /":
            return Reply(200, b"Ollama is running", "text/plain; charset=utf-8")
        if at == "GET /api/version":
            return json_reply({"version": VERSION})
        if at == "GET /api/tags":
            return json_reply({"models": [model.entry() for model in known.values()]})
        if at == "GET /api/ps":
            return json_reply({"models": [self._running(one) for one in self.loaded.values()]})
        if at not in ("POST /api/show", "POST /api/generate", "POST /api/embed"):
            return Reply(404, b"404 page not found", "text/plain")
        try:
            asked = request.json()
        except ValueError as error:
            return json_reply({"error": str(error)}, 400)
        name = full_name(str(asked.get("model", "")))
        if name not in known:
            return json_reply({"error": f"model '{asked.get('model')}' not found"}, 404)
        model = known[name]
        if at == "POST /api/show":
            powers = ["embedding" if model.embeds else "completion"]
            return json_reply({"modelfile": f"# Modelfile\nFROM {model.weights}\n", "capabilities": powers})
        if at == "POST /api/embed":
            return await self._generate(model, {**asked, "prompt": asked.get("input", "")}, embeds=True)
        return await self._generate(model, asked)

    # --- models -----------------------------------------------------------------------------------------------------

    async def _generate(self, model: Model, asked: dict[str, Any], *, embeds: bool = False) -> Reply:
        """Load, unload, or answer: by the prompt and `keep_alive`, as Ollama tells them apart."""
        keep, prompt = asked.get("keep_alive"), asked.get("prompt", "")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float)):
            return json_reply({"error": "json: cannot unmarshal keep_alive"}, 400)
        told = {"model": model.name, "response": "", "done": True}
        if model.remote_host:
            return json_reply({**told, "done_reason": "load"})
        if keep == 0 and not prompt:
            return await self._expire(model, told)
        if model.embeds and not embeds:
            return json_reply({"error": f'"{model.name}" does not support generate'}, 400)
        async with self.turn:
            one = self.loaded.get(model.name)
            if one is None or one.expired:
                one = await self._load(model)
            if one is None:
                return json_reply({"error": OUT_OF_MEMORY}, 500)
            keep_s = DEFAULT_KEEP_S if keep is None else float(keep)
            one.until = None if keep_s < 0 or os.environ.get("OLLAMA_KEEP_ALIVE") == "-1" else time.monotonic() + keep_s
            one.in_flight += 1
        try:
            if prompt:
                await self.pass_time(law.TOKEN_S * int(asked.get("options", {}).get("num_predict", 20)), "generate")
        finally:
            one.in_flight -= 1
        text = {"response": f"{len(prompt)} characters read"} if prompt else {}
        return json_reply({**told, **text, "done_reason": "stop" if prompt else "load"})

    async def _expire(self, model: Model, told: dict[str, Any]) -> Reply:
        """Let a model be unloaded when nobody uses it: answered before it is so."""
        if self._fault(model, "sleep-500"):
            return json_reply({"error": "simulated fault: sleep-500"}, 500)
        if self._fault(model, "sleep-hangs"):
            await asyncio.Event().wait()
        if one := self.loaded.get(model.name):
            one.expired = True
        return json_reply({**told, "done_reason": "unload"})

    async def _load(self, model: Model) -> Loaded | None:
        """Start its runner; None where that has not enough memory."""
        while model.name in self.loaded:  # one that is on its way out is waited for
            await asyncio.sleep(0.01)
        await self.pass_start_time(law.llama_load_s(model.mb), "load")
        if self._fault(model, "oom-at-start") or self._fault(model, "wake-oom"):
            self.log(f"ggml_backend_cuda_buffer_type_alloc_buffer: {OUT_OF_MEMORY}")
            return None
        runner = os.path.join(self.machine.folder, "libexec", "ollama-runner")
        gpu = self._roomiest()
        words = (
            "--model",
            model.weights,
            "--service",
            self.service,
            "--gpu",
            str(gpu),
            "--mb",
            str(model.mb + RUNS_MB),
        )
        process = await asyncio.create_subprocess_exec(runner, *words, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None  # noqa: S101  # a pipe was asked for
        if (await process.stdout.readline()).strip() != b"held":
            await process.wait()
            self.log(f"ggml_backend_cuda_buffer_type_alloc_buffer: {OUT_OF_MEMORY}")
            return None
        self.loaded[model.name] = Loaded(model, process, None)
        return self.loaded[model.name]

    def _roomiest(self) -> int:
        """The GPU with the most room: Ollama chooses by itself, among those that it sees."""
        return max(self.visible or [0], key=self.ledger.free_mb)

    async def _unload(self, name: str) -> None:
        one = self.loaded[name]
        if self._fault(one.model, "sleep-frees-nothing") is None:
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGTERM)
            await one.process.wait()
        self.loaded.pop(name, None)

    async def _keep(self) -> None:
        """Unload what is expired and not in use, and forget what died."""
        while True:
            await asyncio.sleep(0.02)
            for name, one in list(self.loaded.items()):
                late = one.until is not None and time.monotonic() >= one.until
                if one.process.returncode is not None:
                    self.loaded.pop(name, None)
                elif (one.expired or late) and not one.in_flight:
                    await self.pass_time(law.llama_unload_s(), "unload")
                    await self._unload(name)

    def _running(self, one: Loaded) -> dict[str, Any]:
        size = (one.model.mb + RUNS_MB) * 1024 * 1024
        entry = {**one.model.entry(), "size": size, "size_vram": size, "context_length": 4096}
        return {**entry, "expires_at": "2318-01-01T00:00:00Z" if one.until is None else "2026-01-01T00:05:00Z"}

    def _fault(self, model: Model, kind: str) -> float | None:
        return faults.value(self.machine, model.name, kind)


def full_name(name: str) -> str:
    """A model's name with its tag, and without the registry that is meant where none is said."""
    name = name.removeprefix(f"{LIBRARY}/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
