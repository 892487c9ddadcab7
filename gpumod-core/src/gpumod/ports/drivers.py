"""What drivers, sleep strategies, estimators and model-info sources promise, and the optional powers of drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.footprint import Estimate
from gpumod.domain.plan import Variant
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports.launch import Allocation, Launch, LaunchFile
from gpumod.ports.web import Clock, Http


class ProbeResult(Frozen):
    """What a service says of itself over HTTP. `failed` is final: waiting longer would not help."""

    state: Literal["starting", "ready", "sleeping", "unhealthy", "failed"]
    detail: str = ""


class Capabilities(Frozen):
    """What a service can do with its present options. `sleep_levels` excludes `stop`, which every service has.
    `equal_part`: of each GPU that it spans it takes the same part, not the same MiB. `unloads_itself`: it may put its
    model away and load it again by itself, so that awake without memory it has not lost its GPU. `loads_by_use`: it
    loads at its next request, after a start as after a sleep, and does not tell whether it has: it counts as asleep
    from when it was put to sleep for as long as it holds no more memory than then."""

    sleep_levels: tuple[str, ...] = ()
    exclusive_start: bool = False
    hosts_members: bool = False
    equal_part: bool = False
    unloads_itself: bool = False
    loads_by_use: bool = False


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
    """A log line after which waiting is useless. `need_mb` and `have_mb` are the numbers in it, where it has them.
    `remedy` is another way to run the service that the line itself proposes: a switch that failed offers it."""

    code: Literal["out-of-memory", "port-taken", "bad-model", "bad-option", "crashed"]
    line: str
    need_mb: int | None = None
    have_mb: int | None = None
    hint: str = ""
    remedy: Variant | None = None


@runtime_checkable
class ReadsItsLog(Protocol):
    """A driver that recognises its runtime's fatal log lines (the first that matters is returned)."""

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None: ...


@runtime_checkable
class ChecksVariables(Protocol):
    """A driver, or a supervisor, that some variables would break which a process gets beside those of its options.

    `check_variables` raises ValueError for one of `variables` (values by name: a container's `environment`, or secrets)
    with which the service would not run, or sleep, as it says. Pure. No error repeats a value: it may be a secret.
    """

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None: ...


@runtime_checkable
class OffersVariants(Protocol):
    """A driver that knows other ways to run a service with less VRAM (KV type, CPU offload). Pure."""

    def variants(self, service: Service) -> Sequence[Variant]: ...


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
    """A driver whose process serves several services. `members_file` is pure and renders the host's configuration; None
    where the host has none.

    `load` and `unload` return when it is really so, and raise GpumodError when it is not; `reload` makes the host
    read its rewritten file without disturbing loaded members. `members` maps member id to reading; it takes the
    pids of the host's process tree to find the members' own processes.
    """

    def members_file(
        self, host: Service, members: Sequence[tuple[Service, Allocation]], settings: Settings
    ) -> LaunchFile | None: ...
    async def members(
        self, host: Service, port: int, pids: Sequence[int], http: Http
    ) -> Mapping[str, MemberReading]: ...
    async def reload(self, host: Service, port: int, http: Http, clock: Clock) -> None: ...
    async def load(self, member: Service, port: int, http: Http, clock: Clock) -> None: ...
    async def unload(self, member: Service, port: int, http: Http, clock: Clock) -> None: ...


@runtime_checkable
class NamesMembers(Protocol):
    """A driver whose hosts know their members by other names than their ids: `members` is then keyed by these. Pure."""

    def member_name(self, member: Service) -> str: ...


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
