"""What the planner knows: definitions, footprints, levels now, budgets. Derived from the snapshot, then only read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from gpumod.domain.errors import UnknownName
from gpumod.domain.footprint import Footprint, split
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.plan import Lease, Policy
from gpumod.domain.service import Service
from gpumod.domain.states import ALIVE, State

RAM = -1
"""The key of host RAM in a :data:`Load`; the other keys are GPU indices."""

Load = dict[int, int]
"""MiB per resource."""

DEFAULT_S = {"start": 30.0, "stop": 3.0, "sleep": 3.0, "wake": 4.0, "verify": 0.5}
"""Seconds that an action is taken to last where nobody has measured it."""


def add(into: Load, load: Mapping[int, int], sign: int = 1) -> None:
    """Add `load` to `into`, in place."""
    for key, amount in load.items():
        into[key] = into.get(key, 0) + sign * amount


def most(*loads: Mapping[int, int]) -> Load:
    """The largest of each resource."""
    out: Load = {}
    for load in loads:
        for key, amount in load.items():
            out[key] = max(out.get(key, 0), amount)
    return out


def declared(service: Service) -> Footprint:
    """What its definition says that it takes."""
    return Footprint(
        service=service.id,
        vram_mb=service.vram_mb,
        start_peak_mb=service.start_peak_mb or service.vram_mb,
        asleep_mb=service.asleep_mb or 0,
    )


class World:
    """The snapshot seen through definitions, footprints, leases and policy."""

    def __init__(
        self,
        snapshot: HostSnapshot,
        services: Mapping[str, Service],
        footprints: Mapping[str, Footprint],
        leases: Iterable[Lease] = (),
        policy: Policy | None = None,
        footprints_now: Mapping[str, Footprint] | None = None,
    ) -> None:
        """`footprints_now` are those of what is up with another definition than the one in `services`."""
        self.snapshot = snapshot
        self.services = services
        self.footprints = footprints
        self.footprints_now = footprints_now or {}
        self.leases = tuple(leases)
        self.policy = policy or Policy()
        self.gpus = tuple(gpu.index for gpu in snapshot.gpus)
        self._totals_mb = {gpu.index: gpu.usable_mb for gpu in snapshot.gpus}
        self._readings = dict(snapshot.services)
        self._now: dict[str, Load] = {}
        self.leased = {lease.service: lease.holder for lease in self.leases if lease.service}

    def reading(self, service: str) -> ServiceReading:
        """Its reading; what was never seen is stopped."""
        if service not in self._readings:
            self._readings[service] = self.snapshot.reading(service)
        return self._readings[service]

    def state(self, service: str) -> State:
        return self.reading(service).state

    def is_alive(self, service: str) -> bool:
        """True when a process of it may live, or when it failed and still holds memory."""
        reading = self.reading(service)
        return reading.state in ALIVE or (reading.state is State.FAILED and any(reading.vram_mb.values()))

    @cached_property
    def alive(self) -> tuple[str, ...]:
        return tuple(sorted(service for service in self.snapshot.services if self.is_alive(service)))

    def find(self, service: str) -> Service | None:
        """Its definition: the present one, else the one that it was launched with."""
        return self.services.get(service) or self.reading(service).launched

    def definition(self, service: str) -> Service:
        """Its definition. Raises UnknownName `unknown-service`."""
        found = self.find(service)
        if found is None:
            raise UnknownName(
                "unknown-service", f"there is no service {service!r}", hint="`gpumod service list` shows them"
            )
        return found

    def needs(self, service: str) -> tuple[str, ...]:
        found = self.find(service)
        return found.needs if found else ()

    @cached_property
    def dependents(self) -> dict[str, list[str]]:
        """For each service, those alive that need it."""
        out: dict[str, list[str]] = {}
        for service in self.alive:
            for need in self.needs(service):
                out.setdefault(need, []).append(service)
        return out

    def is_protected(self, service: str) -> bool:
        """True for what a switch leaves alone unless asked: pinned, adopted or leased."""
        found = self.find(service)
        pinned = found is not None and found.pinned
        return pinned or service in self.leased or self.reading(service).adopted

    def footprint(self, service: str) -> Footprint:
        """Its footprint; where none was given, what the definition declares."""
        known = self.footprints.get(service)
        if known is not None:
            return known
        found = self.find(service)
        return declared(found) if found else Footprint(service=service, vram_mb=0, start_peak_mb=0)

    def seconds(self, service: str, action: str) -> float:
        """How long `action` on it is expected to last; never zero, so that times order steps as waiting does."""
        known = self.measured_s(service, action)
        return max(0.001, DEFAULT_S[action] if known is None else known)

    def measured_s(self, service: str, action: str) -> float | None:
        """How long `action` on it took in earlier runs; None: it was never measured."""
        known: float | None = getattr(self.footprint(service), f"{action}_s", None)
        return known

    # --- levels -------------------------------------------------------------------------------------------------

    def awake(self, service: str, gpus: tuple[int, ...], foot: Footprint | None = None) -> Load:
        """What it holds awake (`foot`: by this footprint)."""
        foot = foot or self.footprint(service)
        return self._split(foot, foot.vram_mb, gpus) | ({RAM: foot.ram_mb} if foot.ram_mb else {})

    def peak(self, service: str, gpus: tuple[int, ...], foot: Footprint | None = None) -> Load:
        """What a start reserves."""
        foot = foot or self.footprint(service)
        return self._split(foot, foot.start_peak_mb, gpus) | ({RAM: foot.ram_mb} if foot.ram_mb else {})

    def asleep(self, service: str, gpus: tuple[int, ...], foot: Footprint | None = None) -> Load:
        """What it keeps asleep: its residue, and in host RAM what sleeping takes beside what it had awake.

        Of GPUs of different sizes it may keep the same MiB or the same part: the more is counted, but never more than
        it had awake.
        """
        foot = foot or self.footprint(service)
        ram = {RAM: foot.ram_mb + foot.ram_asleep_mb} if foot.ram_mb + foot.ram_asleep_mb else {}
        kept = split(foot.asleep_mb, gpus)
        if foot.equal_part and kept:
            awake = self._split(foot, foot.vram_mb, gpus)
            kept = most(kept, self._split(foot, foot.asleep_mb, gpus))
            kept = {gpu: min(mb, awake[gpu]) for gpu, mb in kept.items()}
        return kept | ram

    def _split(self, foot: Footprint, total_mb: int, gpus: tuple[int, ...]) -> Load:
        return split(total_mb, gpus, self._totals_mb if foot.equal_part else None)

    def seat(self, service: str) -> tuple[int, ...]:
        """The GPUs that it is on now: as placed, else as seen, else as defined, else the first."""
        reading = self.reading(service)
        found = self.find(service)
        defined = found.gpus if found and found.gpus != "any" else ()
        seen = tuple(sorted(gpu for gpu, held_mb in reading.vram_mb.items() if held_mb))
        seat = reading.gpus or seen or defined
        return tuple(gpu for gpu in seat if gpu in self.gpus) or self.gpus[:1]

    def now(self, service: str) -> Load:
        """What it holds now: as observed, but at least what its state says, so that growth to come is covered.

        Asked for again and again, so it is kept: whoever gets it leaves it as it is.
        """
        known = self._now.get(service)
        if known is None:
            known = self._now[service] = self._held(service)
        return known

    def _held(self, service: str) -> Load:
        reading = self.reading(service)
        observed = {gpu: held_mb for gpu, held_mb in reading.vram_mb.items() if held_mb and gpu in self.gpus}
        levels = {State.RUNNING: self.awake, State.SLEEPING: self.asleep, State.STARTING: self.peak}
        level = levels.get(reading.state)
        foot = self.footprints_now.get(service)
        return most(observed, level(service, self.seat(service), foot)) if level else observed

    @cached_property
    def before(self) -> Load:
        """What all services hold now."""
        total: Load = dict.fromkeys((*self.gpus, RAM), 0)
        for service in self.snapshot.services:
            add(total, self.now(service))
        return total

    def leased_mb(self, gpu: int) -> int:
        """Memory that somebody holds without a service."""
        return sum(lease.vram_mb for lease in self.leases if lease.gpu == gpu and lease.service is None)

    @cached_property
    def budgets(self) -> Load:
        """What all services together may hold. Host RAM: what is available plus what they hold, less the reserve."""
        out = {
            gpu.index: gpu.total_mb
            - self.policy.reserve_mb
            - self.snapshot.foreign_mb(gpu.index)
            - self.leased_mb(gpu.index)
            for gpu in self.snapshot.gpus
        }
        out[RAM] = self.snapshot.ram_available_mb - self.policy.ram_reserve_mb + self.before[RAM]
        return out
