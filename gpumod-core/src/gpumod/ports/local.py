"""This computer outside its GPUs, and who changes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from gpumod.domain.base import Frozen
from gpumod.domain.holding import KnowsProcesses
from gpumod.domain.machine import LoadSigns, PortUser


class Holder(Frozen):
    """Who changes this machine now; `since` is seconds since the epoch."""

    pid: int
    user: str
    command: str
    home: str
    since: float


class Local(KnowsProcesses, Protocol):
    """This computer outside its GPUs. Free ports have no users; a stranger surely has the port; `lock` raises Busy."""

    def port_users(self, ports: Collection[int]) -> Mapping[int, PortUser]: ...
    def stranger_on(self, port: int, pids: Collection[int]) -> PortUser | None: ...
    def free_disk_mb(self, path: Path) -> int: ...
    def memory_pressure(self) -> float | None: ...
    def load_signs(self, pids: Collection[int]) -> LoadSigns: ...
    def lock(self, folder: Path, command: str, home: Path) -> AbstractContextManager[None]: ...
    def holder(self, folder: Path) -> Holder | None: ...
