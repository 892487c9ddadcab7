"""The runtimes of the world in memory: a driver with a sleep level, a host with members, and all parts put together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpumod.domain.errors import Failed
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.engine.machine import Machine
from gpumod.plugins.kit import Options, parse_options, poll
from gpumod.plugins.loglines import LogRule, first_fatal
from gpumod.plugins.offers import DriverOffer, GpuProbeOffer, Offer, SleepStrategyOffer, SupervisorOffer
from gpumod.plugins.registry import Offered, Plugins, Registry, SleepStrategies
from gpumod.ports import (
    Activity,
    Allocation,
    Capabilities,
    Clock,
    FatalLine,
    Http,
    HttpFailure,
    HttpReply,
    Launch,
    LaunchFile,
    MemberReading,
    ProbeResult,
    SleepStrategy,
    Store,
)
from gpumod.testing.world import Recipe, World
from gpumod.testing.world_parts import OnAct, WorldHttp, WorldLocal, WorldProbe, WorldSupervisor
from gpumod.testing.world_secrets import WorldSecrets

MEMBERS = "members.json"
RULES = (
    LogRule("out-of-memory", re.compile(r"out of memory: need (?P<need>\d+) MiB, have (?P<have>\d+) MiB")),
    LogRule("port-taken", re.compile(r"address already in use")),
)


class WorldOptions(Options):
    """How a service of the world behaves (see :class:`Recipe`); `uses_mb` is what it takes in truth, `unloads` says
    that it may put its model away by itself. It tells of its use where it `tells`."""

    uses_mb: int | None = None
    peak_mb: int = 0
    residue_mb: int = 300
    load_s: float = 1.0
    stop_s: float = 0.2
    sleep_s: float = 0.3
    wake_s: float = 0.5
    exclusive: bool = False
    unloads: bool = False
    tells: bool = True


def recipe(service: Service, allocation: Allocation) -> dict[str, Any]:
    options = parse_options(WorldOptions, service)
    vram_mb = allocation.vram_mb if options.uses_mb is None else options.uses_mb
    return asdict(Recipe(vram_mb=vram_mb, **options.model_dump(exclude={"uses_mb", "exclusive", "unloads", "tells"})))


class WorldDriver:
    """The driver `world`. As a member of a host, a service of it has no process of its own to launch."""

    name = "world"

    def check(self, service: Service) -> None:
        parse_options(WorldOptions, service)

    def capabilities(self, service: Service) -> Capabilities:
        levels = ("unload",) if service.host else ("nap",)
        options = _options(service)
        return Capabilities(sleep_levels=levels, exclusive_start=options.exclusive, unloads_itself=options.unloads)

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        order = {"recipe": recipe(service, allocation)}
        ports = (service.port,) if service.port else ()
        return Launch(argv=("world-runtime", json.dumps(order)), ports=ports, stop_timeout_s=5.0)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        try:
            reply = await http.request("GET", port, "/health")
        except HttpFailure as failure:
            state = "starting" if failure.kind == "refused" else "unhealthy"
            return ProbeResult.model_validate({"state": state, "detail": str(failure)})
        if reply.status == 503:
            return ProbeResult(state="starting", detail="it loads")
        if not reply.ok:
            return ProbeResult(state="unhealthy", detail=f"it answered {reply.status}")
        return ProbeResult(state="sleeping" if reply.json_body["asleep"] else "ready")

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None:
        if not _options(service).tells:
            return None
        reply = await http.request("GET", port, "/use")
        return Activity.model_validate(reply.json_body)

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        return first_fatal(RULES, lines)


class WorldHost(WorldDriver):
    """The driver `world-host`: one process that serves members, each in a process of its own below it."""

    name = "world-host"

    def capabilities(self, service: Service) -> Capabilities:
        return Capabilities(hosts_members=True)

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        made = super().launch(service, Allocation(), settings)
        order = {**json.loads(made.argv[1]), "members": "{service_dir}/" + MEMBERS}
        file = self.members_file(service, (), settings)
        return made.model_copy(update={"argv": (made.argv[0], json.dumps(order)), "files": (file,)})

    def members_file(
        self, host: Service, members: Sequence[tuple[Service, Allocation]], settings: Settings
    ) -> LaunchFile:
        told = {
            member.id: {"recipe": recipe(member, allocation), "gpus": [share.index for share in allocation.gpus]}
            for member, allocation in members
        }
        return LaunchFile(name=MEMBERS, content=json.dumps(told))

    async def members(self, host: Service, port: int, pids: Sequence[int], http: Http) -> Mapping[str, MemberReading]:
        return await readings(port, http)

    async def reload(self, host: Service, port: int, http: Http, clock: Clock) -> None:
        await asked(host, http, port, "/reload")

    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await asked(member, http, port, "/load")

        async def loaded() -> bool | None:
            reading = (await readings(port, http)).get(member.id)
            if reading is None or reading.failed:
                raise Failed("load-failed", f"{member.id} could not be loaded", service=member.id)
            return reading.loaded or None

        if not await poll(clock, loaded, member.startup_timeout):
            raise Failed("load-timeout", f"{member.id} was not loaded in {member.startup_timeout:g} s")

    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        if member.id in await readings(port, http):
            await asked(member, http, port, "/unload")


class Nap:
    """The sleep level `nap`: the process keeps its residue, and gives the rest back."""

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        return min(vram_mb, _options(service).residue_mb)

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await self._go(service, port, http, "sleep")

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await self._go(service, port, http, "wake")

    async def _go(self, service: Service, port: int, http: Http, verb: str) -> None:
        await asked(service, http, port, f"/{verb}")
        reply = await http.request("GET", port, "/health")
        if reply.json_body["asleep"] is not (verb == "sleep"):
            raise Failed(f"{verb}-failed", f"{service.id} did not {verb}")


class Unload:
    """The sleep level `unload` of a host's members."""

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    def ram_mb(self, service: Service, vram_mb: int) -> int | None:
        return 0

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await WorldHost().unload(service, port, http, clock)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await WorldHost().load(service, port, http, clock)


async def asked(service: Service, http: Http, port: int, path: str) -> HttpReply:
    """Ask a service to do something. Raises Failed `sleep-failed`, `sleep-timeout`, `load-failed` and so on."""
    verb = path[1:]
    try:
        reply = await http.request("POST", port, path, json_body={"model": service.id}, timeout_s=30.0)
    except HttpFailure as failure:
        how = "timeout" if failure.kind == "timeout" else "failed"
        raise Failed(f"{verb}-{how}", f"{service.id} did not {verb}", why=str(failure)) from failure
    if not reply.ok:
        why = f"it answered {reply.status}: {reply.json_body}"
        raise Failed(f"{verb}-failed", f"{service.id} did not {verb}", why=why, service=service.id)
    return reply


async def readings(port: int, http: Http) -> dict[str, MemberReading]:
    reply = await http.request("GET", port, "/members")
    return {service: MemberReading.model_validate(told) for service, told in reply.json_body.items()}


def _options(service: Service) -> WorldOptions:
    return parse_options(WorldOptions, service)


def quiet(label: str) -> None:
    """What to do at an act where nothing is to happen."""


def world_plugins(world: World, on_act: OnAct = quiet, more: Sequence[Offer] = ()) -> Plugins:
    """The parts of a world as plugins, offered by nobody's distribution; `more` drivers, sleep levels, supervisors."""

    def offered(kind: str, *offers: Offer) -> Registry[Any]:
        return Registry(kind, {offer.name: Offered(kind, offer, "gpumod-core") for offer in offers})

    def supervisor(home: Path, *_: object) -> WorldSupervisor:
        return WorldSupervisor(world, home, on_act)

    naps = SleepStrategyOffer(name="nap", summary="keeps a residue", drivers=("world",), factory=Nap)
    unloads = SleepStrategyOffer(name="unload", summary="keeps nothing", drivers=("world",), factory=Unload)
    levels: dict[str, Offered[SleepStrategy]] = {
        SleepStrategies.key(driver, offer.name): Offered("sleep level", offer, "gpumod-core")
        for offer in (naps, unloads, *(one for one in more if isinstance(one, SleepStrategyOffer)))
        for driver in offer.drivers
    }
    return Plugins(
        drivers=offered(
            "driver",
            DriverOffer(name="world", summary="a service of the world", factory=WorldDriver),
            DriverOffer(name="world-host", summary="a host of the world", factory=WorldHost),
            *(one for one in more if isinstance(one, DriverOffer)),
        ),
        sleep_strategies=SleepStrategies(Registry("sleep level", levels)),
        estimators=offered("VRAM estimator"),
        info_sources=offered("model info source"),
        supervisors=offered(
            "supervisor",
            SupervisorOffer(name="world", summary="in memory", factory=supervisor),
            *(one for one in more if isinstance(one, SupervisorOffer)),
        ),
        gpu_probes=offered(
            "GPU probe",
            GpuProbeOffer(
                name="world", summary="in memory", available=lambda _: None, factory=lambda _: WorldProbe(world)
            ),
        ),
    )


def build_machine(
    world: World,
    home: Path,
    store: Store,
    on_act: OnAct = quiet,
    settings: Mapping[str, Any] | None = None,
    more: Sequence[Offer] = (),
) -> Machine:
    """One gpumod over a world. Several over the same world are several runs of the program, one after the other."""
    told = {"gpu_probe": "world", "supervisor": "world", **(settings or {})}
    return Machine(
        home=home,
        home_id="world",
        settings=Settings.model_validate(told),
        store=store,
        plugins=world_plugins(world, on_act, more),
        http=WorldHttp(world, on_act),
        clock=world.clock,
        local=WorldLocal(world),
        secrets=WorldSecrets(world),
    )


_QUICK = {"load_s": 0.2, "stop_s": 0.05, "sleep_s": 0.2, "wake_s": 0.3}


def world_service(service: str, vram_mb: int, port: int | None = None, *, naps: bool = False, **fields: Any) -> Service:
    """A service of the world. `naps`: it can sleep; options of :class:`WorldOptions` go where they belong.

    It has 10 s to start where nothing else is said: a start that fails by the clock is polled to its end.
    """
    options = {key: fields.pop(key) for key in list(fields) if key in WorldOptions.model_fields}
    told = {
        "id": service,
        "driver": "world",
        "port": port,
        "vram_mb": vram_mb,
        "unit_vars": options,
        "startup_timeout": 10.0,
    }
    told.update(fields)
    if naps:
        told["sleep_mode"] = "nap"
    return Service.model_validate(told)


def quick_service(service: str, vram_mb: int, port: int | None = None, **fields: Any) -> Service:
    """A service of the world that starts, stops, sleeps and wakes in tenths of a second, where nothing else is said."""
    return world_service(service, vram_mb, port, **{**_QUICK, **fields})


def world_mode(mode: str, *members: str) -> Mode:
    """A mode. A member is `ID`, `ID:asleep` or `ID:time-shared`, and `@N` behind that is its start order."""
    found = []
    for member in members:
        named, _, order = member.partition("@")
        service, _, want = named.partition(":")
        found.append(ModeMember(service=service, want=Want(want or "awake"), start_order=int(order or 0)))
    return Mode(id=mode, members=tuple(found))
