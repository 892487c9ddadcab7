"""Runtimes of the world whose plugin is bad: every method of it can be made to raise, to answer wrongly, or to hang."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.offers import DriverOffer, Offer, SleepStrategyOffer
from gpumod.ports import Allocation, Capabilities, Clock, FatalLine, Http, Launch, MemberReading, ProbeResult
from gpumod.testing.world_drivers import Nap, WorldDriver, WorldHost


@dataclass
class Oddity:
    """What is bad now: `raises` maps a method's name to what it raises, `answers` to what it answers, whatever was
    asked, and `hangs` are methods that never return."""

    raises: dict[str, BaseException] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)

    def meet(self, method: str) -> None:
        if method in self.raises:
            raise self.raises[method]

    def answer(self, method: str, otherwise: Any) -> Any:
        """What `method` answers; `otherwise` where it is good."""
        self.meet(method)
        return self.answers.get(method, otherwise)

    async def wait(self, method: str) -> None:
        if method in self.hangs:
            await asyncio.Event().wait()
        self.meet(method)


class OddDriver(WorldDriver):
    """The driver `odd`: a service of the world, and a plugin that breaks."""

    name = "odd"

    def __init__(self, oddity: Oddity) -> None:
        self.oddity = oddity

    def check(self, service: Service) -> None:
        self.oddity.meet("check")
        super().check(service)

    def capabilities(self, service: Service) -> Capabilities:
        told: Capabilities = self.oddity.answer("capabilities", super().capabilities(service))
        return told

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        told: Launch = self.oddity.answer("launch", super().launch(service, allocation, settings))
        return told

    def variants(self, service: Service) -> tuple[Variant, ...]:
        told: tuple[Variant, ...] = self.oddity.answer("variants", ())
        return told

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        told: FatalLine | None = self.oddity.answer("fatal_line", super().fatal_line(service, lines))
        return told

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        await self.oddity.wait("probe")
        told: ProbeResult = self.oddity.answer("probe", await super().probe(service, port, http))
        return told


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
        told: int | None = self.oddity.answer("residue_mb", super().residue_mb(service, vram_mb))
        return told

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
