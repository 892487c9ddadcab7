"""A lease as it is stored: memory that was made free for somebody, and what was put away for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gpumod.domain.base import Frozen
from gpumod.domain.machine import ServiceReading
from gpumod.domain.run import Event
from gpumod.domain.service import Service


class Holding(Frozen):
    """`vram_mb` of `gpu`, held by `holder` (who, and for what) since `since`, at most until `until`.

    `pid` is the process that holds it; None: nobody in particular, until it is given back. `identity` tells that
    process from every other (for None: this boot of the computer), so that a lease ends with whoever holds it.
    `foreign_mb` is what others held there before that could be its holder's later, without what processes of leases'
    holders did. `before` and
    `definitions` are the readings and launched definitions of the services that were put to sleep or stopped for it.
    `mode_run` is the run by which the machine had gone to its mode by then ("": by none that is known; None: an older
    gpumod did not note it).
    """

    id: str
    holder: str
    gpu: int
    vram_mb: int
    since: float
    until: float | None = None
    pid: int | None = None
    identity: str
    foreign_mb: int = 0
    mode_run: str | None = None
    before: Mapping[str, ServiceReading] = {}
    definitions: Mapping[str, Service] = {}


class KeepsHoldings(Protocol):
    """The part of a store that keeps leases, the oldest first. Deleting one that is not there does nothing."""

    def holdings(self) -> tuple[Holding, ...]: ...
    def put_holding(self, holding: Holding, *, event: Event) -> None: ...
    def delete_holding(self, holding_id: str, *, event: Event) -> None: ...


class KnowsProcesses(Protocol):
    """The part of a computer that tells processes apart.

    `identity` is what no other process (in this boot or another) shares, None for one that is gone; of None it is this
    boot's. `tree` is a process and all that it started, as far as they are still its children. `contained` tells of one
    whether it is in a container, another than gpumod itself, or cannot be looked at. `user` is who runs this.
    """

    def identity(self, pid: int | None) -> str | None: ...
    def tree(self, pid: int) -> Sequence[int]: ...
    def contained(self, pid: int) -> bool: ...
    def user(self) -> str: ...
