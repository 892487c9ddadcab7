"""Ports: what the engine and plugins speak to. Adapters and plugins implement them; nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.footprint import Estimate
from gpumod.domain.holding import KeepsHoldings
from gpumod.domain.machine import Finding, GpuProcess, GpuProfile, GpuReading, Ram
from gpumod.domain.mode import Mode
from gpumod.domain.plan import Plan, Variant
from gpumod.domain.run import Event, Handle, Run, RunStep, Sample
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports.local import Holder as Holder
from gpumod.ports.local import Local as Local

# --- what a driver is given and gives ---------------------------------------------------------------------------


class GpuShare(Frozen):
    """One GPU that a service was placed on: what the card has, what the budget is, and this service's share (MiB)."""

    index: int
    uuid: str = ""
    total_mb: int
    budget_mb: int
    vram_mb: int


class Allocation(Frozen):
    """Where a service goes and what it may take there.

    `visible` are the GPUs that its process sees, in the order in which it counts them: those of `gpus`, or for a host
    and its members every GPU of the machine (a member must then be told which of them to use).
    """

    gpus: tuple[GpuShare, ...] = ()
    visible: tuple[int, ...] = ()

    @property
    def vram_mb(self) -> int:
        return sum(share.vram_mb for share in self.gpus)


class LaunchFile(Frozen):
    """A file to be written (atomically) before the start. `name` is relative to the service's own folder."""

    name: str
    content: str
    mode: int = 0o600


class Launch(Frozen):
    """How to start a service. Nothing here is interpreted by a shell.

    `argv[0]` is a name to be found on the search path or an absolute path. In `argv`, `env` and `files` the text
    `{service_dir}` stands for the absolute path of the service's own folder. `stop_signal` goes first, SIGKILL
    after `stop_timeout_s`.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    cwd: Path | None = None
    files: tuple[LaunchFile, ...] = ()
    ports: tuple[int, ...] = ()
    stop_signal: Literal["SIGTERM", "SIGINT"] = "SIGTERM"
    stop_timeout_s: float = 30.0


class ProbeResult(Frozen):
    """What a service says of itself over HTTP. `failed` is final: waiting longer would not help."""

    state: Literal["starting", "ready", "sleeping", "unhealthy", "failed"]
    detail: str = ""


class Capabilities(Frozen):
    """What a service can do with its present options. `sleep_levels` excludes `stop`, which every service has.
    `equal_part`: of each GPU that it spans it takes the same part, not the same MiB. `unloads_itself`: it may put its
    model away and load it again by itself, so that awake without memory it has not lost its GPU."""

    sleep_levels: tuple[str, ...] = ()
    exclusive_start: bool = False
    hosts_members: bool = False
    equal_part: bool = False
    unloads_itself: bool = False


class HttpReply(Frozen):
    """An answer: `status` and `text`; `json_body` is the parsed body, or None when it is not JSON."""

    status: int
    text: str = ""
    json_body: Any = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class HttpFailure(Exception):
    """No answer: refused, reset, timed out, or not HTTP. An expected answer, never a traceback."""

    def __init__(self, kind: Literal["refused", "timeout", "protocol"], detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Http(Protocol):
    """HTTP to 127.0.0.1, without proxies and TLS. Raises :class:`HttpFailure`."""

    async def request(
        self,
        method: str,
        port: int,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Any = None,
        timeout_s: float = 2.0,
    ) -> HttpReply: ...


class Clock(Protocol):
    """Time, injected: seconds since the epoch, a monotonic clock, and sleep."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


@runtime_checkable
class Driver(Protocol):
    """The adapter of one runtime.

    `check` raises ValueError on options it does not accept. `launch` is pure and never spawns. `probe` never raises
    for what a server answers; it is called with the service's effective port (its host's for a member).
    """

    name: str

    def check(self, service: Service) -> None: ...
    def capabilities(self, service: Service) -> Capabilities: ...
    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch: ...
    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult: ...


class FatalLine(Frozen):
    """A log line after which waiting is useless. `need_mb` and `have_mb` are the numbers in it, where it has them."""

    code: Literal["out-of-memory", "port-taken", "bad-model", "bad-option", "crashed"]
    line: str
    need_mb: int | None = None
    have_mb: int | None = None
    hint: str = ""


@runtime_checkable
class ReadsItsLog(Protocol):
    """A driver that recognises its runtime's fatal log lines (the first that matters is returned)."""

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None: ...


@runtime_checkable
class OffersVariants(Protocol):
    """A driver that knows other ways to run a service with less VRAM (KV type, CPU offload). Pure."""

    def variants(self, service: Service) -> tuple[Variant, ...]: ...


class MemberReading(Frozen):
    """A member as its host tells it. `configured` but not loaded is asleep; `pid` is the member's own process."""

    configured: bool
    loaded: bool = False
    loading: bool = False
    failed: bool = False
    pid: int | None = None
    detail: str = ""


@runtime_checkable
class HostsMembers(Protocol):
    """A driver whose process serves several services. `members_file` is pure and renders the host's configuration.

    `load` and `unload` return when it is really so, and raise GpumodError when it is not; `reload` makes the host
    read its rewritten file without disturbing loaded members. `members` maps member id to reading; it takes the
    pids of the host's process tree to find the members' own processes.
    """

    def members_file(
        self, host: Service, members: Sequence[tuple[Service, Allocation]], settings: Settings
    ) -> LaunchFile: ...
    async def members(
        self, host: Service, port: int, pids: Sequence[int], http: Http
    ) -> Mapping[str, MemberReading]: ...
    async def reload(self, host: Service, port: int, http: Http, clock: Clock) -> None: ...
    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None: ...
    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None: ...


@runtime_checkable
class SleepStrategy(Protocol):
    """How services of some drivers sleep at some levels.

    `residue_mb` and `ram_mb` predict, purely, what is kept in VRAM and taken of host RAM asleep; None: not known.
    `sleep` and `wake` are idempotent, verify by the runtime's own word, and raise GpumodError when it did not happen.
    """

    def residue_mb(self, service: Service, vram_mb: int) -> int | None: ...
    def ram_mb(self, service: Service, vram_mb: int) -> int | None: ...
    async def sleep(self, service: Service, port: int, http: Http, clock: Clock) -> None: ...
    async def wake(self, service: Service, port: int, http: Http, clock: Clock) -> None: ...


@runtime_checkable
class VramEstimator(Protocol):
    """Estimates what a service takes, before it was ever started. None: does not apply."""

    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> Estimate | None: ...


class ModelInfo(Frozen):
    """What is known about a model, with the source of each field."""

    model: str
    fields: Mapping[str, Any] = {}
    provenance: Mapping[str, str] = {}


@runtime_checkable
class ModelInfoSource(Protocol):
    """Tells about a model from one place (a GGUF file, a config.json, a hub). None: does not know it."""

    def info(self, service: Service, settings: Settings) -> ModelInfo | None: ...


# --- the machine ------------------------------------------------------------------------------------------------


class ProcessStatus(Frozen):
    """What a supervisor knows of one handle: `pids` is the whole tree, `pid` the main process, `detail` what it says
    besides (that memory ran out, or a restart is near). `exit_code` is negative for a signal, None when not known."""

    alive: bool
    pid: int | None = None
    pids: tuple[int, ...] = ()
    started_at: float | None = None
    exit_code: int | None = None
    token: Mapping[str, Any] = {}
    detail: str = ""


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
class TellsFindings(Protocol):
    """A GPU probe that has more to say of the machine than its memory (driver, kind of cards). Blocking, as `read`."""

    def findings(self) -> tuple[Finding, ...]: ...


# --- persistence ------------------------------------------------------------------------------------------------


class Simulation(Frozen):
    """A plan that was shown and stored. `base` says what was asked, as plain data."""

    id: str
    at: float
    base: Mapping[str, Any]
    plan: Plan


class Store(KeepsHoldings, Protocol):
    """All state. Every call is one short transaction; a state row and its event are written in the same one.

    Raises UnknownName for what is not there, and Failed(`database`, ...) when the file cannot be used. `problems` are
    rows that cannot be read (the others can); `last_errors` maps a service to the error of its last step that failed,
    where no later step of it went well. `check_writable` raises MachineLacks(`read-only-home` | `disk-full`);
    `together` makes one transaction of several calls.
    """

    def check_writable(self) -> None: ...
    def together(self) -> AbstractContextManager[None]: ...
    def services(self) -> Mapping[str, Service]: ...
    def put_service(self, service: Service, *, event: Event, user_edited: Sequence[str] = ()) -> None: ...
    def user_edited(self, service_id: str) -> frozenset[str]: ...
    def delete_service(self, service_id: str, *, event: Event) -> None: ...
    def modes(self) -> Mapping[str, Mode]: ...
    def put_mode(self, mode: Mode, *, event: Event, user_edited: bool = False) -> None: ...
    def mode_user_edited(self, mode_id: str) -> bool: ...
    def delete_mode(self, mode_id: str, *, event: Event) -> None: ...
    def settings(self) -> Mapping[str, str]: ...
    def put_setting(self, key: str, value: str | None, *, event: Event) -> None: ...
    def current_mode(self) -> str | None: ...
    def previous_mode(self) -> str | None: ...
    def current_alternative(self) -> str | None: ...
    def previous_alternative(self) -> str | None: ...
    def handles(self) -> Mapping[str, Handle]: ...
    def put_handle(self, handle: Handle, *, event: Event) -> None: ...
    def delete_handle(self, service_id: str, *, event: Event) -> None: ...

    def add_run(self, run: Run) -> None: ...
    def update_step(self, run_id: str, step: RunStep) -> None: ...
    def add_steps(self, run_id: str, steps: Sequence[RunStep]) -> None: ...
    def finish_run(self, run: Run, *, mode: str | None, set_mode: bool) -> None: ...
    def run(self, run_id: str) -> Run: ...
    def runs(self, limit: int) -> tuple[Run, ...]: ...
    def run_ids(self, beginning: str, limit: int) -> tuple[str, ...]: ...
    def open_run(self) -> Run | None: ...

    def events(self, limit: int) -> tuple[Event, ...]: ...
    def events_of(self, kind: str, limit: int) -> tuple[Event, ...]: ...
    def add_event(self, event: Event) -> None: ...
    def last_errors(self) -> Mapping[str, str]: ...
    def problems(self) -> tuple[ErrorInfo, ...]: ...
    def add_samples(self, samples: Sequence[Sample]) -> None: ...
    def samples(self) -> Mapping[tuple[str, str], Mapping[str, float]]: ...

    def add_simulation(self, simulation: Simulation) -> None: ...
    def simulations(self, limit: int) -> tuple[Simulation, ...]: ...
    def simulation_with(self, alternative_id: str) -> Simulation | None: ...
    def put_gpu_profiles(self, gpus: Sequence[GpuReading]) -> None: ...
    def gpu_profiles(self) -> tuple[GpuProfile, ...]: ...
