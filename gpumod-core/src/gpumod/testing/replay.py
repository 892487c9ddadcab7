"""A machine on paper that executes a plan in any order that the plan allows, and counts what is held at every instant.

It knows footprints and the meaning of actions, but nothing of how plans are made: the planner's properties are
checked against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import GpuReading, HostSnapshot, ServiceReading
from gpumod.domain.plan import Plan, Step
from gpumod.domain.service import Service
from gpumod.domain.states import TABLE, Action, State, allowed

RAM = -1
"""The key of host RAM beside the GPU indices."""

Held = dict[int, int]


def shared(total_mb: int, gpus: tuple[int, ...], snapshot: HostSnapshot, *, equal_part: bool) -> Held:
    """`total_mb` shared among `gpus`, rounded up: evenly, or the same part of each."""
    if not total_mb:
        return {}
    size = {gpu: snapshot.gpu(gpu).total_mb if equal_part else 1 for gpu in gpus}
    return {gpu: math.ceil(Fraction(total_mb * size[gpu], sum(size.values()))) for gpu in gpus}


@dataclass
class Paper:
    """One service on paper: its state, where it is, and what it holds (MiB per resource)."""

    state: State
    gpus: tuple[int, ...]
    held: Held = field(default_factory=dict)


class Replay:
    """Executes the steps of `plan`, beginning at `snapshot`. `begin` and `end` raise AssertionError on a bad step."""

    def __init__(
        self,
        snapshot: HostSnapshot,
        services: Mapping[str, Service],
        footprints: Mapping[str, Footprint],
        plan: Plan,
    ) -> None:
        self.snapshot = snapshot
        self.services = services
        self.footprints = footprints
        self.steps = {step.n: step for step in plan.steps if step.action is not Action.VERIFY}
        self.done: set[int] = set()
        self.running: set[int] = set()
        self.papers = {service: self._paper(service) for service in {*services, *snapshot.services}}
        self.ram_before = self.total(RAM)

    def _paper(self, service: str) -> Paper:
        reading = self.snapshot.reading(service)
        gpus = reading.gpus or tuple(sorted(gpu for gpu, held_mb in reading.vram_mb.items() if held_mb))
        paper = Paper(reading.state, gpus, dict(reading.vram_mb))
        level = {State.RUNNING: self._awake, State.SLEEPING: self._asleep, State.STARTING: self._peak}
        if reading.state in level:
            self._grow(paper, level[reading.state](service, gpus))
        return paper

    def _grow(self, paper: Paper, to: Held) -> None:
        for key, amount in to.items():
            paper.held[key] = max(paper.held.get(key, 0), amount)

    def _awake(self, service: str, gpus: tuple[int, ...]) -> Held:
        foot = self.footprints[service]
        return {**self._shared(foot, foot.vram_mb, gpus), RAM: foot.ram_mb}

    def _peak(self, service: str, gpus: tuple[int, ...]) -> Held:
        foot = self.footprints[service]
        return {**self._shared(foot, foot.start_peak_mb, gpus), RAM: foot.ram_mb}

    def _asleep(self, service: str, gpus: tuple[int, ...]) -> Held:
        foot = self.footprints[service]
        awake = self._shared(foot, foot.vram_mb, gpus)
        even = shared(foot.asleep_mb, gpus, self.snapshot, equal_part=False)
        part = self._shared(foot, foot.asleep_mb, gpus)
        kept = {gpu: min(max(even[gpu], part[gpu]), awake[gpu]) for gpu in part}
        return {**kept, RAM: foot.ram_mb + foot.ram_asleep_mb}

    def _shared(self, foot: Footprint, total_mb: int, gpus: tuple[int, ...]) -> Held:
        return shared(total_mb, gpus, self.snapshot, equal_part=foot.equal_part)

    def total(self, key: int) -> int:
        """MiB held of one resource by all services."""
        return sum(paper.held.get(key, 0) for paper in self.papers.values())

    def ready(self) -> list[Step]:
        """Steps that may begin now."""
        begun = self.done | self.running
        return [step for n, step in self.steps.items() if n not in begun and self.done.issuperset(step.waits_for)]

    @property
    def is_over(self) -> bool:
        return len(self.done) == len(self.steps)

    def state(self, service: str) -> State:
        return self.papers[service].state

    def begin(self, n: int) -> None:
        """Begin step `n`: what it needs at its peak is held from now on."""
        step = self.steps[n]
        paper = self.papers[step.service]
        if not self.done.issuperset(step.waits_for):
            raise AssertionError(f"step {n} began before what it waits for")
        if not allowed(step.action, paper.state):
            raise AssertionError(f"step {n} is to {step.action} {step.service}, which is {paper.state}")
        self.running.add(n)
        paper.state = TABLE[step.action].via
        if step.action is Action.START:
            paper.gpus = step.placed_on
            self._grow(paper, self._peak(step.service, paper.gpus))
        elif step.action is Action.WAKE:
            self._grow(paper, self._awake(step.service, paper.gpus))
        elif step.action is Action.SLEEP:
            self._grow(paper, self._asleep(step.service, paper.gpus))

    def end(self, n: int) -> None:
        """Step `n` is done: what is held settles."""
        step = self.steps[n]
        paper = self.papers[step.service]
        self.running.remove(n)
        self.done.add(n)
        paper.state = TABLE[step.action].to
        if step.action is Action.STOP:
            paper.gpus, paper.held = (), {}
        elif step.action is Action.SLEEP:
            paper.held = self._asleep(step.service, paper.gpus)
        else:
            paper.held = self._awake(step.service, paper.gpus)

    def observe(self) -> HostSnapshot:
        """The machine as somebody would find it now; a step under way is found half-way.

        A service that is being put to sleep is still awake; one that is waking is awake as far as one can see.
        """
        acting = {self.steps[n].service: self.steps[n].action for n in self.running}
        readings: dict[str, ServiceReading] = {}
        ram_mb = 0
        for service, paper in self.papers.items():
            state = State.RUNNING if acting.get(service) is Action.WAKE else paper.state
            held = self._awake(service, paper.gpus) if acting.get(service) is Action.SLEEP else paper.held
            half = state is State.STARTING
            vram = {gpu: amount // 2 if half else amount for gpu, amount in held.items() if gpu != RAM}
            ram_mb += self._awake(service, paper.gpus)[RAM] if acting.get(service) is Action.WAKE else held.get(RAM, 0)
            readings[service] = ServiceReading(
                service=service,
                state=state,
                vram_mb=vram,
                gpus=paper.gpus,
                launched=self.services.get(service) if state is not State.STOPPED else None,
                adopted=self.snapshot.reading(service).adopted,
            )
        gpus = []
        for gpu in self.snapshot.gpus:
            managed = sum(reading.vram_mb.get(gpu.index, 0) for reading in readings.values())
            used = managed + self.snapshot.foreign_mb(gpu.index)
            gpus.append(
                GpuReading(
                    index=gpu.index, name=gpu.name, total_mb=gpu.total_mb, used_mb=used, free_mb=gpu.total_mb - used
                )
            )
        return self.snapshot.model_copy(
            update={
                "gpus": tuple(gpus),
                "services": readings,
                "ram_available_mb": self.snapshot.ram_available_mb + self.ram_before - ram_mb,
            }
        )
