"""Optional powers of supervisors that are strangers' programs, write a text for each service that they start, or find
again what was forgotten."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Allocation, Driver, Launch


@runtime_checkable
class CanBeAway(Protocol):
    """A supervisor that is a stranger's program. `reach` raises MachineLacks where it is not there."""

    def reach(self) -> None: ...


@runtime_checkable
class NeedsLeave(Protocol):
    """A supervisor that not everybody may tell what to do. `may` raises MachineLacks where whoever asks may not start
    and stop the services of `handles`; nothing becomes of them by the question."""

    async def may(self, handles: Sequence[Handle]) -> None: ...


@runtime_checkable
class StartsHere(Protocol):
    """A supervisor whose services live in the control group of whoever starts them. `outlives` raises MachineLacks
    where `service`, started from here, would be ended with that. Blocks."""

    def outlives(self, service: str) -> None: ...


@runtime_checkable
class KeepsInside(Protocol):
    """A supervisor whose services live in a file system and a network of their own (containers).

    `check_service` raises ValueError for a definition that it would not start. `launch` has the driver launch the
    service as things are in there, and tells the launch as it is seen from this machine (`ports` are the machine's);
    it raises ValueError too. Both are pure but for links, which they resolve. A start is given the machine's own names
    of GPUs also where the program takes numbers alone (`gpus_by_number`): in there they count from 0.
    """

    def check_service(self, service: Service, settings: Settings) -> None: ...
    def launch(self, driver: Driver, service: Service, allocation: Allocation, settings: Settings) -> Launch: ...


@runtime_checkable
class Forgets(Protocol):
    """A supervisor that keeps something for a service while that is stopped. `forget` removes it; False where the
    service is up, and so keeps it. What is not gpumod's own is not touched."""

    async def forget(self, service: str) -> bool: ...


class Left(Frozen):
    """What is kept for a service that is down: `what` in words, and the command for a shell that removes it."""

    what: str
    end: str


@runtime_checkable
class TellsLeft(Forgets, Protocol):
    """One that finds what it keeps, by service; nothing of what is up. Blocks; raises MachineLacks and Failed."""

    def left(self) -> Mapping[str, Left]: ...


@runtime_checkable
class LooksAfter(Protocol):
    """A supervisor of what somebody else set up: of which things it speaks it is told by their handles."""

    def meet(self, handle: Handle) -> None: ...


class Stray(Frozen):
    """A living process of a home that no handle names: `end` is a command for a shell that ends it, workers too."""

    service: str
    pid: int | None
    end: str


@runtime_checkable
class FindsStrays(Protocol):
    """A supervisor that finds what it started for its home, and what none of `handles` names any more."""

    async def strays(self, handles: Collection[Handle]) -> Sequence[Stray]: ...


@runtime_checkable
class KeepsJournal(Protocol):
    """A supervisor whose logs are no files: `follow_command` is a program that prints them as they come."""

    def follow_command(self, service: str, lines: int) -> tuple[str, ...]: ...


class UnitText(Frozen):
    """A unit as it should be (`text`, made of `template`), and what is `there` (None: nothing); `edited` by hand.
    `program` is the path of what it starts, empty where that is not told."""

    name: str
    path: Path
    text: str
    template: str
    there: str | None = None
    edited: bool = False
    program: str = ""


@runtime_checkable
class WritesUnits(Protocol):
    """A supervisor that writes a text for each service that it starts.

    `unit` tells what would be written, from `template` if one is named; `install` writes it; `units` tells what is
    there, by service. `withdraw` removes the text for a service, False where it is up, and so keeps it. None of them
    touches what is not gpumod's own.
    """

    def unit(self, handle: Handle, launch: Launch, template: str | None = None) -> UnitText: ...
    def units(self) -> Mapping[str, Path]: ...
    async def install(self, handle: Handle, launch: Launch) -> None: ...
    async def withdraw(self, service: str) -> bool: ...
