"""A stand-in for `uvicorn APP`, and for any service of the user's own: `python -m gpumod_sim.app --port P`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from gpumod_sim import law
from gpumod_sim.flags import FlagError, Flags, parse
from gpumod_sim.http11 import Reply, Request, bind, json_reply
from gpumod_sim.ledger import OutOfMemoryError
from gpumod_sim.standin import MIB, StandIn, StartError, oom_line

TABLE = {
    "host": "text", "port": "int", "workers": "int", "log-level": "text", "reload": "switch", "app-dir": "text",
    "access-log": "switch", "timeout-keep-alive": "int", "timeout-graceful-shutdown": "int", "factory": "switch",
    "root-path": "text", "env-file": "text", "loop": "text", "http": "text", "lifespan": "text", "use-colors": "switch",
    "limit-concurrency": "int", "proxy-headers": "switch", "forwarded-allow-ips": "text",
}  # fmt: skip
DEFAULT_MB = 500
RESIDUE_MB = 300
MODULE_MACHINE = "GPUMOD_SIM_MACHINE"


def main(folder: str, argv: Sequence[str]) -> int:
    """The `uvicorn` program of the machine in `folder`. Returns the exit status."""
    if "--version" in argv:
        print("Running uvicorn 0.40.0 with CPython on Linux")  # noqa: T201 - what the real program prints
        return 0
    try:
        flags = parse(argv, TABLE, {})
    except FlagError as error:
        words = {"unknown": f"No such option: {error.flag}", "missing": f"Option '{error.flag}' requires an argument."}
        sys.stderr.write(f"Error: {words.get(error.kind, f'Invalid value for {error.flag!r}: {error.detail}')}\n")
        return 2
    app = App(folder, flags)
    code = app.run()
    if app.signal_number:  # uvicorn ends itself by the signal that it was sent
        signal.signal(app.signal_number, signal.SIG_DFL)
        os.kill(os.getpid(), app.signal_number)
    return code


class App(StandIn):
    """Any path answers 200. POST to a path that ends in `sleep` gives the memory back, in `wake` takes it again.

    With SIM_LOADS_BY_USE=1 it is like ComfyUI: it starts empty, loads when it is asked for work, and frees by `/free`.
    Of what it gives back, SIM_ASLEEP_RAM_MB are then in host RAM.
    """

    def __init__(self, folder: str, flags: Flags) -> None:
        super().__init__(folder, "uvicorn")
        self.flags = flags
        gpus = self.visible if "CUDA_VISIBLE_DEVICES" in os.environ else self.visible[:1]
        total_mb = DEFAULT_MB if self.expected_mb is None else self.expected_mb
        self.full_mb = self.shared_out(total_mb, gpus)
        self.loads_by_use = os.environ.get("SIM_LOADS_BY_USE") == "1"
        self.asleep_ram_mb = int(os.environ.get("SIM_ASLEEP_RAM_MB", "0"))
        self.asleep = self.loads_by_use
        self.in_flight = 0
        self.signal_number = 0
        self.turn = asyncio.Lock()

    async def serve(self) -> None:
        await self.pass_start_time(law.app_load_s(sum(self.full_mb.values())), "load")
        if self.fault("cpu-fallback") is not None:
            self.full_mb = {}
        try:
            if self.fault("oom-at-start") is not None:
                raise OutOfMemoryError(min(self.full_mb, default=0), sum(self.full_mb.values()), 0, 0)
            self.hold(self.residue_mb() if self.asleep else self.full_mb)
        except OutOfMemoryError as error:
            raise StartError(oom_line(error), "ERROR:    Application startup failed. Exiting.", code=3) from error
        for gpu in self.full_mb:
            await self.spawn_worker(gpu)
        await self.pause_if_never_ready()
        host, port = self.flags.text("host", "127.0.0.1"), self.flags.whole("port", 8000)
        try:
            sock = bind(host, port)
        except OSError as error:
            text = f"error while attempting to bind on address ('{host}', {port}): address already in use"
            raise StartError(f"ERROR:    [Errno {error.errno}] {text}") from error
        await self.server.serve(sock)
        self.ready = True
        self.log("INFO:     Application startup complete.", f"INFO:     Uvicorn running on http://{host}:{port}")

    def end(self, code: int) -> None:
        self.signal_number = signal.SIGTERM
        super().end(code)

    async def stop(self) -> None:
        await self.server.close(wait_s=self.flags.number("timeout-graceful-shutdown", 30))
        self.log("INFO:     Application shutdown complete.")

    async def handle(self, request: Request) -> Reply:
        last = request.path.rstrip("/").rsplit("/", 1)[-1]
        if request.method == "POST" and last in ("sleep", "free"):
            return await self._sleep()
        if request.method == "POST" and last in ("wake", "wake_up"):
            return await self._wake()
        if request.path == "/activity":
            return json_reply({"in_flight": self.in_flight})
        if request.path == "/queue":
            return json_reply({"queue_running": [[0, "prompt"]] * self.in_flight, "queue_pending": []})
        if request.path == "/system_stats":
            held_mb = 0 if self.asleep else sum(self.full_mb.values())
            return json_reply({"system": {}, "devices": [{"type": "cuda", "torch_vram_total": held_mb * MIB}]})
        if request.path == "/is_sleeping":
            return json_reply({"is_sleeping": self.asleep})
        if request.path in ("/echo", "/v1/audio/transcriptions", "/v1/audio/speech"):
            return await self._work(request)
        return json_reply({"status": "ok", "sleeping": self.asleep})

    async def _work(self, request: Request) -> Reply:
        """Real work; `?seconds=S` makes it last (real seconds)."""
        if self.asleep and self.loads_by_use and (failed := await self._wake()).status != 200:
            return failed
        if self.asleep:
            return json_reply({"detail": "asleep"}, 503)
        try:
            seconds = float(request.first("seconds", "0") or 0)
        except ValueError:
            return json_reply({"detail": "seconds: not a number"}, 422)
        self.in_flight += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
        if request.path == "/v1/audio/transcriptions":
            return json_reply({"text": f"{len(request.body)} bytes of speech"})
        if request.path == "/v1/audio/speech":
            return Reply(200, b"RIFF\x24\x00\x00\x00WAVE", "audio/wav")
        return json_reply({"echo": request.body.decode("utf-8", "replace"), "query": dict(request.query)})

    def residue_mb(self) -> dict[int, int]:
        """What it keeps asleep, by GPU."""
        residue_mb = self.shared_out(RESIDUE_MB, list(self.full_mb))
        return {gpu: min(mb, residue_mb[gpu]) for gpu, mb in self.full_mb.items()}

    async def _sleep(self) -> Reply:
        if self.fault("sleep-500") is not None:
            return json_reply({"detail": "Internal Server Error"}, 500)
        if self.fault("sleep-refused") is not None:
            return json_reply({"detail": "busy"}, 409)
        if self.fault("sleep-hangs") is not None:
            await asyncio.Event().wait()
        async with self.turn:
            if not self.asleep:
                await self.pass_time(law.llama_unload_s(), "sleep")
                if self.fault("sleep-dies") is not None:
                    self.log("Segmentation fault (simulated fault)")
                    self.ledger.leave(os.getpid())
                    os._exit(1)
                if self.asleep_ram_mb:
                    try:
                        self.hold_ram(self.asleep_ram_mb)
                    except OutOfMemoryError as error:
                        self.log(f"MemoryError: {error}")
                        return json_reply({"detail": f"MemoryError: {error}"}, 500)
                if self.fault("sleep-frees-nothing") is None:
                    self.hold(self.residue_mb())
                self.asleep = True
        return json_reply({"status": "sleeping"})

    async def _wake(self) -> Reply:
        async with self.turn:
            if self.asleep:
                try:
                    if self.fault("wake-oom") is not None:
                        raise OutOfMemoryError(min(self.full_mb, default=0), sum(self.full_mb.values()), 0, 0)
                    self.hold(self.full_mb)
                except OutOfMemoryError as error:
                    self.log(oom_line(error))
                    return json_reply({"detail": oom_line(error)}, 500)
                await self.pass_time(law.wake_s(sum(self.full_mb.values())), "wake")
                if self.asleep_ram_mb:
                    self.hold_ram(0)
                self.asleep = False
        return json_reply({"status": "awake"})


if __name__ == "__main__":
    if not os.environ.get(MODULE_MACHINE):
        sys.exit(f"{MODULE_MACHINE} does not name the folder of a simulated machine")
    sys.exit(main(os.environ[MODULE_MACHINE], sys.argv[1:]))
