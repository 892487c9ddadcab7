"""What `gpumod doctor` asks of this computer. Looked at, never touched; every call ends within a bounded time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from gpumod.domain.adopted import Manager
from gpumod.domain.base import Frozen


class ManagerFacts(Frozen):
    """A systemd manager: `state` is its SystemState (running, degraded, stopping ...)."""

    version: str
    state: str
    failed_units: int = 0


class LoadedUnit(Frozen):
    """A unit as its manager knows it. Times are None where there is no limit, and so are MiB.

    `kind` is Type=, `file_state` UnitFileState= (enabled, masked ...), `changed` that its file is not the one that was
    read. `memory_mb` is MemoryMax=, `memlock_mb` LimitMEMLOCK=.
    """

    loaded: bool
    load_state: str = ""
    kind: str = ""
    file_state: str = ""
    start_timeout_s: float | None = None
    stop_timeout_s: float | None = None
    changed: bool = False
    memory_mb: int | None = None
    memlock_mb: int | None = None


class PolkitRule(Frozen):
    """A file of rules that speaks of managing units; `of_units`: it asks which unit."""

    path: str
    of_units: bool


class PolkitFacts(Frozen):
    """`hidden` are folders of rules that this user may not read."""

    rules: tuple[PolkitRule, ...] = ()
    hidden: tuple[str, ...] = ()


class DeviceFile(Frozen):
    path: str
    usable: bool


class NvidiaFacts(Frozen):
    """NVIDIA's kernel module as it is loaded: `params` are its options, `devices` the files that programs open."""

    version: str = ""
    params: Mapping[str, str] = {}
    devices: tuple[DeviceFile, ...] = ()


class MemoryFacts(Frozen):
    """`memlock_mb` is RLIMIT_MEMLOCK of this process, which what it starts inherits; None: no limit."""

    swap_total_mb: int
    swap_free_mb: int
    memlock_mb: int | None


class PlaceFacts(Frozen):
    """A file or folder. `hidden`: it cannot be seen whether it is there. `mode` are its permission bits."""

    kind: Literal["file", "folder", "missing", "hidden"]
    mode: int = 0
    owner: int = -1
    readable: bool = False
    writable: bool = False
    free_mb: int = 0


class Checkup(Protocol):
    """Facts of this computer. All calls block; each raises Failed `no-answer` for what does not answer in time.

    `manager` and `units` raise MachineLacks where there is no such manager, as units that are not there are told by
    `loaded`. `nvidia` is None where its kernel module is not loaded. `sleep_states` are those that the kernel knows
    ("mem", "disk" ...). `open_ports` maps those of `ports` that listen for the network to the address. `unreadable` are
    those of `paths` that `user` may not read, or enter, and those of `programs` that it may not execute (of a script:
    not read, or not execute what runs it); none where whoever asks cannot tell, or there is no such user.
    """

    uid: int

    def manager(self, manager: Manager) -> ManagerFacts: ...
    def units(self, manager: Manager, names: Collection[str]) -> Mapping[str, LoadedUnit]: ...
    def lingers(self) -> bool: ...
    def polkit(self) -> PolkitFacts: ...
    def nvidia(self) -> NvidiaFacts | None: ...
    def memory(self) -> MemoryFacts: ...
    def sleep_states(self) -> Sequence[str]: ...
    def open_ports(self, ports: Collection[int]) -> Mapping[int, str]: ...
    def place(self, path: Path) -> PlaceFacts: ...
    def unreadable(self, user: str, paths: Collection[Path], programs: Collection[Path] = ()) -> Collection[Path]: ...
    def inside(self, folder: Path) -> Mapping[str, PlaceFacts]: ...
