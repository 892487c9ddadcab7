"""What keeps processes alive, and what reads the GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.machine import Finding, GpuProcess, GpuReading, Ram
from gpumod.domain.run import Handle
from gpumod.ports.launch import Launch, LaunchFile


class ProcessStatus(Frozen):
    """What a supervisor knows of one handle: `pids` is the whole tree, `pid` the main process, `detail` what it says
    besides (that memory ran out, or a restart is near). `exit_code` is negative for a signal, None when not known.
    `restarts`: so often its program ended since it was started, and was, or is about to be, started again unasked."""

    alive: bool
    pid: int | None = None
    pids: tuple[int, ...] = ()
    started_at: float | None = None
    exit_code: int | None = None
    token: Mapping[str, Any] = {}
    detail: str = ""
    restarts: int = 0


@runtime_checkable
class Supervisor(Protocol):
    """Keeps processes alive, owns their trees and leaves none behind.

    `check` raises what `start` would raise for a launch that cannot be (no such program, no such folder), and does
    nothing else. `start` returns the token that finds the process again; the caller has stored `handle.nonce` before.
    `status` and `stop` also find a process by its nonce alone (a crash between spawn and store). `stop` returns when
    no process of the tree is left. `write_files` replaces files of a service that may be running, each atomically.
    `logs` returns the last lines of the present (or last) run.
    """

    name: str

    def check(self, handle: Handle, launch: Launch) -> None: ...
    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]: ...
    async def stop(self, handle: Handle, launch: Launch) -> None: ...
    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None: ...
    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]: ...
    def logs(self, service: str, lines: int) -> tuple[str, ...]: ...
    def log_path(self, service: str) -> Path | None: ...


@runtime_checkable
class NoticesEnd(Protocol):
    """A supervisor that notices the end of a main process at once, without being asked again and again."""

    async def exited(self, handle: Handle) -> ProcessStatus: ...


@runtime_checkable
class Prepares(Protocol):
    """A supervisor that gets ready once for all starts of a plan; starts that it was not told of work too."""

    def prepared(self, launches: Sequence[tuple[Handle, Launch]]) -> AbstractAsyncContextManager[None]: ...


@runtime_checkable
class Fetches(Protocol):
    """A supervisor that fetches what a service is started from, such as an image, where it is not there.

    `fetch` is called before the first step of a plan; it may last, says by `tell` how it gets on, and changes nothing
    else. A start that it was not called for works too. Raises GpumodError.
    """

    async def fetch(self, handle: Handle, tell: Callable[[str], None]) -> None: ...


@runtime_checkable
class GpuProbe(Protocol):
    """Reads the GPUs. Blocking; raises MachineLacks with what is missing.

    `child_env` is what a service needs to see just these GPUs. `machine_dir` is a folder that is the same for every
    home and user of this machine: the changer's lock lives there.
    """

    name: str

    def read(self) -> tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]: ...
    def ram(self) -> Ram: ...
    def child_env(self, gpus: Sequence[int]) -> Mapping[str, str]: ...
    def machine_dir(self) -> Path: ...


@runtime_checkable
class NumbersGpus(Protocol):
    """A GPU probe whose `child_env` names GPUs by something else than numbers, and which can number them too.

    `numbered_env` is `child_env` for a program that takes numbers alone. Blocking; raises MachineLacks where a number
    could mean another GPU to that program.
    """

    def numbered_env(self, gpus: Sequence[int]) -> Mapping[str, str]: ...


@runtime_checkable
class TellsFindings(Protocol):
    """A GPU probe that has more to say of the machine than its memory (driver, kind of cards). Blocking, as `read`."""

    def findings(self) -> tuple[Finding, ...]: ...
