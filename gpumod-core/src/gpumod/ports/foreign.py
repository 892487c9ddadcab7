"""What is on this machine that gpumod did not set up: units, containers, processes, programs, models. Looked at, never
touched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gpumod.domain.adopted import Adopted, ContainerId, ContainerName, EngineSocket, Manager
from gpumod.domain.base import Frozen
from gpumod.domain.settings import Settings
from gpumod.ports.commands import CommandLine


class UnitFacts(Frozen):
    """A service unit: `command` is its first ExecStart=, as far as systemd tells it (its quoting is lost); `pids` are
    all its processes, none where it is down. `file` is where it was read from. `unseen_env`: it also reads variables
    from a file, which win over those of the command here, and are not known."""

    name: str
    manager: Manager
    command: CommandLine
    active: bool = False
    main_pid: int | None = None
    pids: tuple[int, ...] = ()
    file: str = ""
    unseen_env: bool = False


class Container(Frozen):
    """A container, by its id (its first 12 digits); `engine` is what keeps it, empty where that is not told."""

    engine: str
    id: str

    def __str__(self) -> str:
        return f"{self.engine} container {self.id}".strip()


class ProcessFacts(Frozen):
    """A living process; `identity` is what no other one shares. `container`: the one that it is in, and we are not."""

    pid: int
    identity: str
    command: CommandLine
    pids: tuple[int, ...] = ()
    container: Container | None = None


class ContainerFacts(Frozen):
    """A container of an engine on this machine, as the engine tells of it, up or down.

    `id` is its whole id; `command` what its first process is started with, as things are in there. `main_pid` and
    `pids` are as this machine counts them, none where it is down. `published` leads from its TCP ports to those of
    this machine's loopback that are the same at every start; `shares_network`: its ports are this machine's.
    `mounts` leads from folders in there to those of this machine. `gpus` are those that it was given, by number or
    UUID; empty where it is given all, or it is not said. `project` is that of a compose file. `own`: it is gpumod's,
    of whatever home; `passing`: it is removed by its engine when it ends. `engine` is the socket of its engine.
    """

    id: ContainerId
    name: ContainerName
    command: CommandLine
    main_pid: int | None = None
    pids: tuple[int, ...] = ()
    published: Mapping[int, int] = {}
    shares_network: bool = False
    mounts: Mapping[str, str] = {}
    gpus: tuple[str, ...] = ()
    project: str = ""
    own: bool = False
    passing: bool = False
    engine: EngineSocket | None = None


@runtime_checkable
class FindsContainers(Protocol):
    """A supervisor that looks after adopted containers, and finds what can be adopted.

    `container` takes a name, an id, or the unambiguous beginning of one; None where there is no such container.
    `has` tells whether the very container that was adopted is still there. All block, change nothing, and raise
    GpumodError where the engine cannot be asked.
    """

    def container(self, name: str) -> ContainerFacts | None: ...
    def containers(self) -> tuple[ContainerFacts, ...]: ...
    def has(self, adopted: Adopted) -> bool: ...


class ProgramFound(Frozen):
    """A program, and what it says of its version; where it says nothing, `why`. `failed`: it could not be run."""

    name: str
    path: str
    version: str | None = None
    why: str = ""
    failed: bool = False


class FolderFound(Frozen):
    """A folder of models; `more` where counting ended early."""

    path: str
    models: int
    more: bool = False


class Surroundings(Protocol):
    """Reads what is around gpumod. All calls block, and none changes anything.

    `unit` is None for one that is not there; both unit calls raise GpumodError where the manager cannot be asked.
    `chain` is a process and its ancestors, without process 1. `unit_of` tells the service unit whose control group a
    process is in. `listening` maps those of `pids` that listen on TCP ports to these. `config` reads a YAML mapping
    and raises UsageError.
    """

    def managers(self) -> tuple[Manager, ...]: ...
    def unit(self, name: str, manager: Manager) -> UnitFacts | None: ...
    def units(self, manager: Manager) -> tuple[UnitFacts, ...]: ...
    def process(self, pid: int) -> ProcessFacts | None: ...
    def chain(self, pid: int) -> tuple[ProcessFacts, ...]: ...
    def unit_of(self, pid: int) -> tuple[Manager, str] | None: ...
    def listening(self, pids: Collection[int]) -> Mapping[int, Sequence[int]]: ...
    def programs(self, names: Sequence[str], settings: Settings) -> tuple[ProgramFound, ...]: ...
    def model_folders(self, settings: Settings) -> tuple[FolderFound, ...]: ...
    def llama_swap_files(self, commands: Sequence[CommandLine]) -> tuple[Path, ...]: ...
    def config(self, path: Path) -> Mapping[str, Any]: ...
    def size_mb(self, path: Path) -> int | None: ...
