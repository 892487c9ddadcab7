"""What gpumod sees of the world in memory: supervisor, probe, HTTP and the computer around it.

Each tells `on_act` of every act before it is done and after, as `start chat before`, `sleep chat sent`,
`stop chat after`: the points at which a test lets something happen, or takes a copy of the world.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpumod.domain.errors import Busy, ErrorInfo, Failed, MachineLacks
from gpumod.domain.machine import GpuProcess, GpuReading, LoadSigns, PortUser, Ram
from gpumod.domain.run import Handle
from gpumod.ports import Answer, Holder, HttpFailure, HttpReply, Launch, LaunchFile, ProcessStatus
from gpumod.testing.world import TICK_S, Proc, Recipe, Stranger, World

OnAct = Callable[[str], None]
STOP_PATIENCE_S = 5.0


class WorldSupervisor:
    """Keeps the world's processes. They are found by their pid, or by the nonce alone."""

    name = "world"

    def __init__(self, world: World, home: Path, on_act: OnAct) -> None:
        self.world = world
        self.home = home
        self.on_act = on_act

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        for file in files:
            self.world.files[str(self.home / "services" / service / file.name)] = file.content

    def check(self, handle: Handle, launch: Launch) -> None:
        if launch.argv[0] != "world-runtime":
            raise MachineLacks("missing-binary", f"service {handle.service} needs {launch.argv[0]}")

    async def ask(self, service: str, launch: Launch, question: Sequence[str]) -> Answer | None:
        """As `answers` of the world say; what they do not know is a program that is not there."""
        self.on_act(f"ask {' '.join(question)}")
        return self.world.answers.get(tuple(question))

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        world = self.world
        self.on_act(f"start {handle.service} before")
        folder = self.home / "services" / handle.service
        self.write_files(handle.service, launch.files)
        order = json.loads(launch.argv[1])
        port = launch.ports[0] if launch.ports else None
        late = "binds-late" in world.faults.get(handle.service, {})
        taken = world.listener(port) if port and not late else None
        gpus = tuple(int(gpu) for gpu in env["WORLD_GPUS"].split(",") if gpu)
        path = order.get("members")
        proc = world.spawn(
            handle.service,
            handle.nonce,
            Recipe(**order["recipe"]),
            gpus,
            port=None if taken else port,
            members_path=path.replace("{service_dir}", str(folder)) if path else None,
        )
        if taken:
            world.log(proc, f"address already in use: {port}")
            world.kill(proc, 1)
        elif proc.members_path:
            read_members(world, proc)
        self.on_act(f"start {handle.service} after")
        await world.clock.sleep(TICK_S)
        return {"pid": proc.pid}

    async def stop(self, handle: Handle, launch: Launch) -> None:
        world = self.world
        self.on_act(f"stop {handle.service} before")
        proc = self._find(handle)
        if proc and proc.alive:
            if world.has(proc, "unkillable"):
                await world.clock.sleep(STOP_PATIENCE_S)
                raise Failed("cannot-kill", f"processes of service {handle.service} do not end: {proc.pid}")
            ignores = world.has(proc, "ignore-sigterm")
            # The signal is sent: it ends also when nobody waits for it any more.
            if not ignores:
                world.at(world.clock.time_s + proc.recipe.stop_s, "end", proc)
            self.on_act(f"stop {handle.service} sent")
            await world.clock.sleep(launch.stop_timeout_s if ignores else proc.recipe.stop_s)
            world.settle()
            if proc.alive:
                world.kill(proc, -9)
        self.on_act(f"stop {handle.service} after")

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        self.world.settle()
        return {handle.service: self._status(handle) for handle in handles}

    def _status(self, handle: Handle) -> ProcessStatus:
        proc = self._find(handle)
        if proc is None:
            return ProcessStatus(alive=False)
        pids = (proc.pid, *(child.pid for child in self.world.children(proc))) if proc.alive else ()
        return ProcessStatus(
            alive=proc.alive, pid=proc.pid, pids=pids, exit_code=proc.exit_code, token={"pid": proc.pid}
        )

    def _find(self, handle: Handle) -> Proc | None:
        return next((proc for proc in self.world.procs.values() if proc.nonce == handle.nonce), None)

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        self.world.settle()
        return tuple(self.world.logs.get(service, [])[-lines:])

    def log_path(self, service: str) -> Path | None:
        return None


class WorldProbe:
    """Reads the world's cards."""

    name = "world"

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]:
        world = self.world
        world.settle()
        cards = []
        for gpu, total in enumerate(world.totals_mb):
            used = min(total, world.used_mb(gpu))
            if gpu in world.lost:
                fault = ErrorInfo(code="gpu-lost", message=f"GPU {gpu} (world card) is lost", hint="reboot")
                none = {"total_mb": 0, "used_mb": 0, "free_mb": 0}
                cards.append(GpuReading(index=gpu, name="world card", fault=fault, **none))
                continue
            cards.append(
                GpuReading(
                    index=gpu,
                    name="world card",
                    total_mb=total,
                    used_mb=used,
                    free_mb=total - used,
                    per_process=world.tells_processes and world.names_processes,
                )
            )
        ours = [(p.pid, p.service, gpu, mb) for p in world.procs.values() for gpu, mb in p.mb.items()]
        theirs = [(s.pid, s.name, s.gpu, s.mb) for s in world.strangers]
        named = (
            GpuProcess(pid=pid, name=name, gpu=gpu, vram_mb=mb if world.tells_processes else None)
            for pid, name, gpu, mb in (*ours, *theirs)
            if mb and world.names_processes and gpu not in world.lost
        )
        return tuple(cards), tuple(named)

    def ram(self) -> Ram:
        return Ram(total_mb=self.world.ram_mb, available_mb=self.world.ram_mb)

    def child_env(self, gpus: Sequence[int]) -> Mapping[str, str]:
        return {"WORLD_GPUS": ",".join(map(str, gpus))}

    def numbered_env(self, gpus: Sequence[int]) -> Mapping[str, str]:
        """Raises MachineLacks where a card is lost: nobody knows what the others' numbers are."""
        if self.world.lost:
            raise MachineLacks("gpus-by-number", "the cards cannot be told by number")
        return {**self.child_env(gpus), "WORLD_COUNTS": "1"}

    def machine_dir(self) -> Path:
        return Path("/world")


class WorldHttp:
    """Answers as the process on the port would."""

    def __init__(self, world: World, on_act: OnAct) -> None:
        self.world = world
        self.on_act = on_act

    async def request(
        self,
        method: str,
        port: int,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Any = None,
        timeout_s: float = 2.0,
    ) -> HttpReply:
        await self.world.clock.sleep(TICK_S)
        proc = self.world.listener(port)
        if proc is None:
            raise HttpFailure("refused", f"nobody listens on port {port}")
        if isinstance(proc, Stranger) and proc.healthy:
            return HttpReply(status=200, text="{}", json_body={"asleep": False})
        if isinstance(proc, Stranger):
            return HttpReply(status=404, text="not found")
        if self.world.has(proc, "hang"):
            await self.world.clock.sleep(timeout_s)
            raise HttpFailure("timeout", f"no answer in {timeout_s:g} s")
        status, body = await self._answer(proc, path, json_body, timeout_s)
        return HttpReply(status=status, text=json.dumps(body), json_body=body)

    async def _answer(self, proc: Proc, path: str, body: Any, timeout_s: float) -> tuple[int, Any]:
        if path == "/sleep":
            return await self._sleep(proc, timeout_s)
        if path == "/wake":
            return await self._wake(proc)
        if path in ("/load", "/unload"):
            return self._member(proc, path[1:], body["model"])
        if path == "/reload":
            self.on_act(f"reload {proc.service} before")
            read_members(self.world, proc)
            return 200, {}
        if path == "/use":
            return 200, {"in_flight": proc.in_flight, "served": proc.served}
        if path == "/members":
            return 200, {service: self._reading(proc, service) for service in proc.members}
        return (503 if proc.state == "loading" else 200), {"asleep": proc.state == "asleep"}

    async def _sleep(self, proc: Proc, timeout_s: float) -> tuple[int, Any]:
        world = self.world
        self.on_act(f"sleep {proc.service} before")
        if world.has(proc, "sleep-500"):
            return 500, {"error": "no host memory"}
        if world.has(proc, "sleep-late"):
            world.at(world.clock.time_s + world.faults[proc.service]["sleep-late"], "slept", proc)
        if world.has(proc, "sleep-hangs") or world.has(proc, "sleep-late"):
            await world.clock.sleep(timeout_s)
            raise HttpFailure("timeout", f"no answer in {timeout_s:g} s")
        if proc.state != "asleep":
            world.at(world.clock.time_s + proc.recipe.sleep_s, "slept", proc)
            self.on_act(f"sleep {proc.service} sent")
            await self._until(proc, proc.recipe.sleep_s)
        self.on_act(f"sleep {proc.service} after")
        return 200, {}

    async def _wake(self, proc: Proc) -> tuple[int, Any]:
        world = self.world
        self.on_act(f"wake {proc.service} before")
        if proc.state == "asleep":
            vram_mb = proc.recipe.vram_mb
            missing = 1000 if world.has(proc, "wake-oom") else world.hold(proc, vram_mb)
            if missing:
                world.log(proc, f"out of memory: need {vram_mb} MiB, have {vram_mb - missing} MiB")
                return 500, {"error": "out of memory"}
            world.at(world.clock.time_s + proc.recipe.wake_s, "woken", proc)
            self.on_act(f"wake {proc.service} sent")
            await self._until(proc, proc.recipe.wake_s)
        self.on_act(f"wake {proc.service} after")
        return 200, {}

    async def _until(self, proc: Proc, seconds: float) -> None:
        await self.world.clock.sleep(seconds)
        self.world.settle()
        if not proc.alive:
            raise HttpFailure("protocol", "the connection was reset")

    def _member(self, host: Proc, verb: str, service: str) -> tuple[int, Any]:
        world = self.world
        self.on_act(f"{verb} {service} before")
        if service not in host.members:
            return 404, {"error": f"{service} is not known"}
        running = world.member(host, service)
        if verb == "load" and running is None:
            recipe, gpus = host.members[service]
            host.failed.discard(service)
            world.spawn(service, host.nonce + service, recipe, gpus, parent=host.pid)
        elif verb == "unload" and running is not None and world.has(running, "sleep-frees-nothing"):
            running.parent = None  # the host knows no more of it, and it goes on
        elif verb == "unload" and running is not None:
            world.kill(running, 0)
        self.on_act(f"{verb} {service} after")
        return 200, {}

    def _reading(self, host: Proc, service: str) -> dict[str, Any]:
        child = self.world.member(host, service)
        return {
            "configured": True,
            "loaded": child is not None and child.state == "ready",
            "loading": child is not None and child.state == "loading",
            "failed": child is None and service in host.failed,
            "pid": child.pid if child else None,
        }


class WorldLocal:
    """Files in memory, ports of the world, and the changer's lock as a flag."""

    def __init__(self, world: World) -> None:
        self.world = world

    def port_users(self, ports: Collection[int]) -> Mapping[int, PortUser]:
        found = {port: user for port in ports if (user := self.world.listener(port))}
        return {
            port: PortUser(pid=user.pid, name=user.name if isinstance(user, Stranger) else user.service)
            for port, user in found.items()
        }

    def stranger_on(self, port: int, pids: Collection[int]) -> PortUser | None:
        user = self.world.listener(port)
        return PortUser(pid=user.pid, name=user.name) if isinstance(user, Stranger) else None

    def free_disk_mb(self, path: Path) -> int:
        return self.world.free_disk_mb

    def memory_pressure(self) -> float | None:
        return None

    def load_signs(self, pids: Collection[int]) -> LoadSigns:
        """What these have read and fetch, as the faults `reads-slowly` and `downloads` say; an error at the first look
        with `look-fails-once`."""
        procs = [self.world.procs[pid] for pid in pids if pid in self.world.procs]
        procs = [proc for proc in procs if proc.state == "loading"]
        if any(self.world.faults.get(proc.service, {}).pop("look-fails-once", None) for proc in procs):
            raise OSError("it cannot be looked at now")
        age_s = {proc.service: self.world.clock.now() - proc.started_at for proc in procs}
        rates = {service: self.world.faults.get(service, {}) for service in age_s}
        return LoadSigns(
            read_mb=sum(age_s[s] * rates[s].get("reads-slowly", 0.0) for s in rates),
            downloads={f"{s}.part": age_s[s] * r["downloads"] for s, r in rates.items() if "downloads" in r},
        )

    @contextmanager
    def lock(self, folder: Path, command: str, home: Path) -> Iterator[None]:
        held = self.world.holder
        if held is not None:
            raise Busy(
                "machine-busy", f"{held.user} is changing this machine: {held.command}", why=f"process {held.pid}"
            )
        self.world.holder = Holder(
            pid=1, user="somebody", command=command, home=str(home), since=self.world.clock.now()
        )
        try:
            yield
        finally:
            self.world.holder = None

    def holder(self, folder: Path) -> Holder | None:
        return self.world.holder

    def identity(self, pid: int | None) -> str | None:
        return None if pid in self.world.gone else f"boot {self.world.boot} {pid}"

    def tree(self, pid: int) -> Sequence[int]:
        return (pid,)

    def contained(self, pid: int) -> bool:
        return any(s.pid == pid and s.contained for s in self.world.strangers)

    def user(self) -> str:
        return "somebody"


def read_members(world: World, host: Proc) -> None:
    """Let a host read its file: members that are no longer in it are unloaded, failures are forgotten."""
    told = json.loads(world.files.get(host.members_path or "", "{}"))
    host.members = {name: (Recipe(**one["recipe"]), tuple(one["gpus"])) for name, one in told.items()}
    host.failed.clear()
    for child in world.children(host):
        if child.service not in host.members:
            world.kill(child, 0)
