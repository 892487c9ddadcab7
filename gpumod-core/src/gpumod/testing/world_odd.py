"""Runtimes of the world whose plugin is bad: every method of it can be made to raise, or to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.offers import DriverOffer, Offer, SleepStrategyOffer
from gpumod.ports import Allocation, Capabilities, Clock, Http, Launch, MemberReading, ProbeResult
from gpumod.testing.world_drivers import Nap, WorldDriver, WorldHost


@dataclass
class Oddity:
    """What is bad now: `raises` maps a method's name to what it raises, `hangs` are methods that never return."""

    raises: dict[str, Exception] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)

    def meet(self, method: str) -> None:
        if method in self.raises:
            raise self.raises[method]

    async def wait(self, method: str) -> None:
        if method in self.hangs:
            await asyncio.Event().wait()
        self.meet(method)


class OddDriver(WorldDriver):
    """The driver `odd`: a service of the world, and a plugin that breaks."""

    name = "odd"

    def __init__(self, oddity: Oddity) -> None:
        self.oddity = oddity

    def capabilities(self, service: Service) -> Capabilities:
        self.oddity.meet("capabilities")
        return super().capabilities(service)

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        self.oddity.meet("launch")
        return super().launch(service, allocation, settings)

    def variants(self, service: Service) -> tuple[Variant, ...]:
        self.oddity.meet("variants")
        return ()

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        await self.oddity.wait("probe")
        return await super().probe(service, port, http)


class OddHost(WorldHost):
    """The driver `odd-host`: a host of the world, and a plugin that breaks."""

    name = "odd-host"

    def __init__(self, oddity: Oddity) -> None:
        self.oddity = oddity

    async def members(self, host: Service, port: int, pids: Sequence[int], http: Http) -> Mapping[str, MemberReading]:
        await self.oddity.wait("members")
        return await super().members(host, port, pids, http)

    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await self.oddity.wait("load")
        await super().load(member, port, http, clock)

    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None:
        await self.oddity.wait("unload")
        await super().unload(member, port, http, clock)


class OddNap(Nap):
    """The sleep level `nap` of the driver `odd`."""

    def __init__(self, oddity: Oddity) -> None:
        self.oddity = oddity

    def residue_mb(self, service: Service, vram_mb: int) -> int | None:
        self.oddity.meet("residue_mb")
        return super().residue_mb(service, vram_mb)

    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await self.oddity.wait("sleep")
        await super().sleep(service, port, http, clock)

    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None:
        await self.oddity.wait("wake")
        await super().wake(service, port, http, clock)


def odd_offers(oddity: Oddity) -> tuple[Offer, ...]:
    """The odd runtimes as offers, for :func:`gpumod.testing.world_drivers.world_plugins`."""
    return (
        DriverOffer(name="odd", summary="a bad driver", factory=lambda: OddDriver(oddity)),
        DriverOffer(name="odd-host", summary="a bad host", factory=lambda: OddHost(oddity)),
        SleepStrategyOffer(name="nap", summary="a bad level", drivers=("odd",), factory=lambda: OddNap(oddity)),
    )
