"""The router of the llama.cpp stand-in: one child process per loaded model, with the traps of the real one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from gpumod_sim.flags import Flags
from gpumod_sim.http11 import Reply, Request, bind, json_reply
from gpumod_sim.llama_children import Child, ProxyError, forward
from gpumod_sim.llama_flags import CONTROLLED, Preset, PresetError, read_presets
from gpumod_sim.llama_http import error_reply, is_allowed, keys_of
from gpumod_sim.standin import StandIn, StartError

NEEDS_MODEL = ("/slots", "/metrics", "/lora-adapters")


class Router(StandIn):
    """`models` maps a name to its child; what is configured and not loaded has none running."""

    def __init__(self, folder: str, flags: Flags) -> None:
        super().__init__(folder, "llama-server")
        self.flags = flags
        # What the router is given wins over what a preset says.
        self.inherited = {name: given[-1] for name, given in flags.values.items() if name not in CONTROLLED}
        self.host, self.port = flags.text("host", "127.0.0.1"), flags.whole("port", 8080)
        self.limit = flags.whole("models-max", 4)
        self.autoload = "models-autoload" not in flags or flags.on("models-autoload")
        self.models: dict[str, Child] = {}
        self.keys: set[str] = set()
        self.turn = asyncio.Lock()  # who makes room for an autoload
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        try:
            self.keys = keys_of(self.flags.text("api-key"), self.flags.text("api-key-file"))
            for preset in self._read().values():
                self.models[preset.name] = self._child(preset)
        except (OSError, PresetError) as error:
            raise StartError(f"srv  init: {error}") from error
        eager = [child for child in self.models.values() if child.preset.options.get("load-on-startup") == "true"]
        if self.limit and len(eager) > self.limit:
            raise StartError("srv  init: number of models to load on startup exceeds models-max")
        try:
            sock = bind(self.host, self.port)
        except OSError as error:
            text = f"couldn't bind HTTP server socket, hostname: {self.host}, port: {self.port}"
            raise StartError(f"srv start: {text}") from error
        await self.pause_if_never_ready()
        await self.server.serve(sock)
        self.ready = True
        self.log(f"main: router server is listening on http://{self.host}:{self.port}")
        for child in eager:
            await child.start()

    def _read(self) -> dict[str, Preset]:
        path = self.flags.text("models-preset")
        if not path:
            return {}
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a stand-in starts often: pathlib costs start-up time
            presets = read_presets(file.read())
        for preset in presets.values():
            preset.options |= self.inherited
        return presets

    def _child(self, preset: Preset) -> Child:
        return Child(preset, sys.argv[0], self.port, self.machine, self.log)

    def _find(self, name: str) -> Child | None:
        return self.models.get(name) or next((c for c in self.models.values() if name in c.preset.aliases), None)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Reply:
        if not is_allowed(request, self.keys):
            return error_reply(401, "Invalid API Key")
        path = request.path
        if path in ("/health", "/v1/health"):
            return json_reply({"status": "ok"})
        if request.method == "GET":
            return await self._get(request)
        if request.method != "POST":
            return error_reply(404, "File Not Found")
        try:
            body = request.json()
        except ValueError as error:
            return error_reply(500, f"[json.exception.parse_error.101] parse error: {error}")
        name = body.get("model") if isinstance(body, dict) else None
        if path == "/models/load":
            return await self._load(name)
        if path == "/models/unload":
            return await self._unload(name)
        return await self._route(request, name)

    async def _get(self, request: Request) -> Reply:
        path, name = request.path, request.first("model")
        if path in ("/models", "/v1/models"):
            if request.first("reload") is not None:
                try:
                    self._reload()
                except (OSError, PresetError) as error:
                    return error_reply(500, str(error))
            return json_reply({"data": [child.entry() for child in self.models.values()], "object": "list"})
        if path == "/props" and name is None:
            return json_reply({"role": "router", "max_instances": self.limit, "models_autoload": self.autoload,
                               "build_info": "b11434-sim"})  # fmt: skip
        if path == "/props" or path in NEEDS_MODEL:
            return await self._route(request, name)
        return error_reply(404, "File Not Found")

    async def _load(self, name: Any) -> Reply:
        child = self._find(name) if isinstance(name, str) else None
        if child is None:
            return error_reply(404, "File Not Found")
        if child.running:
            return error_reply(400, "model is already running")
        if self._is_full():
            victim = self._least_recent()
            if victim is None:
                return error_reply(500, "model limit reached, try again later")
            await victim.stop()
        await child.start()
        return json_reply({"success": True})

    async def _unload(self, name: Any) -> Reply:
        child = self._find(name) if isinstance(name, str) else None
        if child is None:
            return error_reply(400, "model is not found")
        if not child.running:
            return error_reply(400, "model is not running")
        if child.fault("sleep-500") is not None:
            return error_reply(500, "simulated fault: sleep-500")
        if child.fault("sleep-hangs") is not None:
            await asyncio.Event().wait()
        if child.fault("sleep-frees-nothing") is not None:
            child.linger()
        else:
            self._spawn(child)
        return json_reply({"success": True})

    def _spawn(self, child: Child) -> None:
        task = asyncio.get_running_loop().create_task(child.stop())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _reload(self) -> None:
        """Read the presets again. A model that changed or vanished is unloaded; failures are forgotten."""
        presets = self._read()
        for name, child in list(self.models.items()):
            if name in presets and presets[name].text() == child.preset.text():
                child.exit_code = None
                child.preset.vram_mb = presets[name].vram_mb
                continue
            self._spawn(child)
            del self.models[name]
        self.models = {name: self.models.get(name) or self._child(preset) for name, preset in presets.items()}

    # --- requests for a model ---------------------------------------------------------------------------------------

    async def _route(self, request: Request, name: Any) -> Reply:
        if not isinstance(name, str) or not name:
            return error_reply(400, "model name is missing from the request")
        child = self._find(name)
        if child is None:
            return error_reply(400, f"model '{name}' not found")
        wanted = request.first("autoload")
        autoload = self.autoload if wanted is None else wanted in ("true", "1")
        if not child.running and not autoload:
            return error_reply(400, "model is not loaded")
        if request.method == "POST":
            child.last_use = time.monotonic()
        if not await self._loaded(child):
            return error_reply(500, f"model name={name} failed to load")
        child.in_flight += 1
        child.idle.clear()
        try:
            return await forward(request, child.port)
        except ProxyError as error:
            return Reply(500, f"proxy error: {error}".encode(), "text/plain")
        finally:
            child.in_flight -= 1
            if not child.in_flight:
                child.idle.set()

    async def _loaded(self, child: Child) -> bool:
        """Wait until `child` is loaded, starting it when it is not. It waits for a busy model to make room."""
        while child.stopping:
            await child.gone.wait()
        if not child.running:
            async with self.turn:
                while not child.running and self._is_full():
                    victim = self._least_recent()
                    if victim is None:
                        await asyncio.sleep(0.02)
                        continue
                    await victim.idle.wait()
                    await victim.stop()
                if not child.running:
                    await child.start()
        return await child.settled()

    def _is_full(self) -> bool:
        return bool(self.limit) and sum(child.running for child in self.models.values()) >= self.limit

    def _least_recent(self) -> Child | None:
        loaded = [
            child for child in self.models.values() if child.value in ("loaded", "sleeping") and not child.stopping
        ]
        return min(loaded, key=lambda child: child.last_use, default=None)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop the children, each for as long as its stop-timeout; a second signal ends this at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, os._exit, 1)
        self.server.stop_listening()
        await asyncio.gather(*(child.stop() for child in self.models.values()))
        await self.server.close()
