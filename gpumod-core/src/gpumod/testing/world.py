"""A GPU machine in memory: processes, their HTTP, their VRAM and its ledger, in virtual time.

What lies outside gpumod's own process is faked here, and nothing else: processes, the network, the devices, the clock
and the lock. The engine, the planner and the store run as they are::

    world = World(24_000)
    with open_store(home / "gpumod.db") as store:
        machine = build_machine(world, home, store)
        outcome = world.clock.run(change(machine, ...))
    assert world.managed_mb() == {"chat": 7000}

The world is plain data. :meth:`World.killed` copies it as it would be if gpumod were killed in this instant, so that a
test can go on from every point of a run. `world_parts` holds what gpumod sees of it, `world_drivers` its runtimes and
the builders.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumod.ports import Answer, Holder
from gpumod.testing.virtual import VirtualClock

LAG_S = 0.3
"""So long after an exit the device still counts the memory, without naming a process."""
TICK_S = 0.001
"""What a request to a service takes."""


@dataclass
class Recipe:
    """How a process behaves. MiB over all its GPUs, times in seconds.

    It takes `peak_mb` half-way through its loading, and settles at `vram_mb`; asleep it keeps `residue_mb`.
    """

    vram_mb: int = 0
    peak_mb: int = 0
    residue_mb: int = 300
    load_s: float = 1.0
    stop_s: float = 0.2
    sleep_s: float = 0.3
    wake_s: float = 0.5


@dataclass
class Proc:
    """A process. `mb` maps GPU to MiB held; `parent` is the host of a member; `members` is what a host was told.

    `in_flight` requests are under way, and `served` are answered.
    """

    pid: int
    service: str
    nonce: str
    recipe: Recipe
    gpus: tuple[int, ...]
    started_at: float
    port: int | None = None
    late_port: int | None = None
    parent: int | None = None
    members_path: str | None = None
    members: dict[str, tuple[Recipe, tuple[int, ...]]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    state: str = "loading"
    mb: dict[int, int] = field(default_factory=dict)
    alive: bool = True
    exit_code: int | None = None
    in_flight: int = 0
    served: int = 0


@dataclass
class Stranger:
    """A process that is not gpumod's. One that is `healthy` answers on its port as if it were a service, one that is
    `contained` is in a container."""

    pid: int
    name: str
    gpu: int = 0
    mb: int = 0
    port: int | None = None
    healthy: bool = False
    contained: bool = False


class World:
    """One machine with a card of each size in `totals_mb` (MiB).

    `faults` maps a service to kinds of fault and their values: `never-ready`, `die-after S`, `oom-at-start`,
    `cpu-fallback`, `slow-start FACTOR`, `hang`, `ignore-sigterm`, `unkillable`, `leak MB`, `sleep-500`, `wake-oom`,
    `sleep-hangs`, `sleep-late S` (no answer, and it comes about all the same), `sleep-frees-nothing`, `binds-late` (it
    takes its port when it is ready), `reads-slowly` and `downloads` (MiB per second, for as long as it loads).
    `gone` are processes of gpumod's own that have ended (None: the computer started anew).
    `tells_processes` is False for cards that do not say what each process holds, `names_processes` for those that name
    none at all (WSL); `lost` are those that fell off the bus. `history` holds, for every change
    of memory, the time and what all services held on each GPU (MiB).
    """

    def __init__(self, *totals_mb: int, ram_mb: int = 64_000) -> None:
        self.clock = VirtualClock()
        self.totals_mb = totals_mb or (24_564,)
        self.ram_mb = ram_mb
        self.free_disk_mb = 100_000
        self.tells_processes = True
        self.names_processes = True
        self.lost: set[int] = set()
        self.lag_s = LAG_S
        self.procs: dict[int, Proc] = {}
        self.strangers: list[Stranger] = []
        self.unattributed: list[tuple[float, int, int]] = []
        self.logs: dict[str, list[str]] = {}
        self.files: dict[str, str] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.answers: dict[tuple[str, ...], Answer] = {}
        self.faults: dict[str, dict[str, float]] = {}
        self.holder: Holder | None = None
        self.gone: set[int | None] = set()
        self.boot = 1
        self.history: list[tuple[float, tuple[int, ...]]] = []
        self._due: list[tuple[float, int, str, int]] = []
        self._last = 4000

    # --- what tests do and ask ----------------------------------------------------------------------------------

    def fault(self, service: str, kind: str, value: float = 0) -> None:
        """From now on processes of `service` have this fault."""
        self.faults.setdefault(service, {})[kind] = value

    def foreign(self, mb: int = 0, *, gpu: int = 0, name: str = "game", port: int | None = None) -> Stranger:
        """A stranger takes memory, a port or both."""
        stranger = Stranger(self._number(), name, gpu, mb, port)
        self.strangers.append(stranger)
        return stranger

    def killed(self) -> World:
        """A copy, as it would be if gpumod were killed now: processes go on, the kernel gives its lock back."""
        other = copy.deepcopy(self)
        other.holder = None
        return other

    def alive(self) -> dict[str, Proc]:
        """The living processes by service."""
        self.settle()
        return {proc.service: proc for proc in self.procs.values() if proc.alive}

    def states(self) -> dict[str, str]:
        """The living services and what they do: loading, ready or asleep."""
        return {service: proc.state for service, proc in sorted(self.alive().items())}

    def managed_mb(self) -> dict[str, int]:
        """MiB that each living service holds, over all GPUs."""
        return {service: sum(proc.mb.values()) for service, proc in sorted(self.alive().items())}

    def unattributed_mb(self, gpu: int = 0) -> int:
        """MiB on a GPU that the device counts and nobody holds."""
        self.settle()
        return self._unattributed_mb(gpu)

    def used_mb(self, gpu: int = 0) -> int:
        """MiB in use on a GPU, as the device counts them."""
        self.settle()
        return self._used_mb(gpu)

    def has(self, proc: Proc, kind: str) -> bool:
        return kind in self.faults.get(proc.service, {})

    # --- processes ----------------------------------------------------------------------------------------------

    def spawn(
        self,
        service: str,
        nonce: str,
        recipe: Recipe,
        gpus: tuple[int, ...],
        *,
        port: int | None = None,
        parent: int | None = None,
        members_path: str | None = None,
    ) -> Proc:
        """Start a process, with what is to become of it."""
        now = self.clock.time_s
        faults = self.faults.get(service, {})
        late = port if "binds-late" in faults else None
        at = None if late else port
        proc = Proc(self._number(), service, nonce, recipe, gpus, now, at, late, parent, members_path)
        load_s = recipe.load_s * faults.get("slow-start", 1)
        self.procs[proc.pid] = proc
        if parent is None:
            self.logs[service] = [f"{service} starts"]
        self.at(now + load_s / 2, "take", proc)
        if "die-after" in faults:
            self.at(now + faults["die-after"], "die", proc)
        if "never-ready" not in faults:
            self.at(now + load_s, "ready", proc)
        return proc

    def kill(self, proc: Proc, code: int) -> None:
        """End a process and those below it. The device gives their memory back a little later, or leaks some of it."""
        self.settle()
        self._end(proc, code)

    def crash(self, service: str, code: int = 1) -> None:
        """The process of `service` ends without being asked."""
        self.kill(self.alive()[service], code)

    def use(self, service: str) -> None:
        """Somebody asks something of `service`, and has the answer."""
        self.alive()[service].served += 1

    def children(self, proc: Proc) -> list[Proc]:
        return [child for child in self.procs.values() if child.parent == proc.pid and child.alive]

    def member(self, host: Proc, service: str) -> Proc | None:
        return next((child for child in self.children(host) if child.service == service), None)

    def listener(self, port: int) -> Proc | Stranger | None:
        """Who listens on `port`."""
        self.settle()
        procs = (proc for proc in self.procs.values() if proc.alive and proc.port == port)
        return next(procs, None) or next((one for one in self.strangers if one.port == port), None)

    def log(self, proc: Proc, line: str) -> None:
        """A line in the log of the process's service, or of its host."""
        owner = self.procs[proc.parent] if proc.parent else proc
        self.logs.setdefault(owner.service, []).append(line)

    # --- memory -------------------------------------------------------------------------------------------------

    def hold(self, proc: Proc, mb: int) -> int:
        """Let a process hold `mb` in all. Returns how many MiB are missing; then it holds what it held."""
        share = -(-mb // len(proc.gpus)) if proc.gpus else 0
        wanted = dict.fromkeys(proc.gpus, share)
        for gpu in proc.gpus:
            missing = wanted[gpu] - proc.mb.get(gpu, 0) - (self.totals_mb[gpu] - self._used_mb(gpu))
            if missing > 0 and wanted[gpu] > proc.mb.get(gpu, 0):
                return missing
        proc.mb = wanted
        self._note()
        return 0

    def _unattributed_mb(self, gpu: int) -> int:
        return sum(mb for until, index, mb in self.unattributed if index == gpu and until > self.clock.time_s)

    def _used_mb(self, gpu: int) -> int:
        held = sum(proc.mb.get(gpu, 0) for proc in self.procs.values())
        foreign = sum(stranger.mb for stranger in self.strangers if stranger.gpu == gpu)
        return held + foreign + self._unattributed_mb(gpu)

    def at(self, time_s: float, what: str, proc: Proc) -> None:
        """Let something become of a process at a time: take, ready, die, end, slept or woken."""
        heapq.heappush(self._due, (time_s, self._number(), what, proc.pid))

    def settle(self) -> None:
        """Let everything happen that is due, in its order."""
        while self._due and self._due[0][0] <= self.clock.time_s:
            _, _, what, pid = heapq.heappop(self._due)
            proc = self.procs[pid]
            if proc.alive:
                self._happen(what, proc)

    def _happen(self, what: str, proc: Proc) -> None:
        recipe = proc.recipe
        if what == "take":
            self._take(proc)
        elif what == "ready" and proc.late_port and any(one.port == proc.late_port for one in self.strangers):
            self.log(proc, f"address already in use: {proc.late_port}")
            self._end(proc, 1)
        elif what == "ready":
            proc.port = proc.port or proc.late_port
            proc.state = "ready"
            self.hold(proc, 0 if self.has(proc, "cpu-fallback") else recipe.vram_mb)
        elif what == "die":
            self.log(proc, f"fatal: {proc.service} met something bad")
            self._end(proc, 3)
        elif what == "end":
            self._end(proc, -15)
        elif what == "slept":
            proc.state = "asleep"
            if not self.has(proc, "sleep-frees-nothing"):
                self.hold(proc, recipe.residue_mb)
        elif what == "woken":
            proc.state = "ready"

    def _take(self, proc: Proc) -> None:
        recipe = proc.recipe
        need_mb = 0 if self.has(proc, "cpu-fallback") else max(recipe.peak_mb, recipe.vram_mb)
        missing = min(1000, need_mb) if self.has(proc, "oom-at-start") else self.hold(proc, need_mb)
        if missing:
            self.hold(proc, (need_mb - missing) // 2)  # it got some of it before it failed
            self.log(proc, f"out of memory: need {need_mb} MiB, have {need_mb - missing} MiB")
            self._end(proc, 1)

    def _end(self, proc: Proc, code: int) -> None:
        for child in self.children(proc):
            self._end(child, -9)
        leak_mb = int(self.faults.get(proc.service, {}).get("leak", 0))
        for gpu, mb in proc.mb.items():
            self.unattributed.append((self.clock.time_s + self.lag_s, gpu, mb))
            if leak_mb:
                self.unattributed.append((float("inf"), gpu, leak_mb))
        proc.alive, proc.exit_code, proc.mb = False, code, {}
        parent = self.procs.get(proc.parent or 0)
        if parent and code > 0:
            parent.failed.add(proc.service)
        self._note()

    def _note(self) -> None:
        held = tuple(sum(p.mb.get(gpu, 0) for p in self.procs.values()) for gpu in range(len(self.totals_mb)))
        self.history.append((self.clock.time_s, held))

    def _number(self) -> int:
        self._last += 1
        return self._last


def most_mb(history: list[tuple[float, tuple[int, ...]]]) -> Mapping[int, int]:
    """The most that all services ever held, for each GPU."""
    return {gpu: max(mb) for gpu, mb in enumerate(zip(*(held for _, held in history), strict=True))}
