"""What the steps of one run share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Lease, Plan, Step
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import StepStatus
from gpumod.domain.service import Service
from gpumod.engine.machine import Machine
from gpumod.engine.unattributed import Unattributed

T = TypeVar("T")
Report = Callable[[Progress], None]


@dataclass
class RunContext:
    """One run under way: its plan, the definitions and footprints it was made with, and the first snapshot.

    `kept` are the turns for which the plan keeps services. `offset` is added to step numbers in the journal (a run that
    is recovered has steps already). `interrupt` is set by Ctrl-C, `leave` by a second one. `gate` serialises
    admissions; `force` skips them, and when `going_back` they wait for memory but turn nobody away: nothing may block a
    rollback. `stopped_instead` are services that freed nothing asleep; `left_to_host` maps a host to processes of
    members that end with it, since they could not be unloaded.
    `device_mb` is what each service holds, by GPU (MiB), where no process is told for it.
    `unattributed` is the account of memory that nobody holds, on from the snapshot.
    """

    machine: Machine
    run_id: str
    plan: Plan
    services: Mapping[str, Service]
    footprints: Mapping[str, Footprint]
    snapshot: HostSnapshot
    report: Report
    kept: tuple[Lease, ...] = ()
    timeout_s: float | None = None
    force: bool = False
    going_back: bool = False
    offset: int = 0
    interrupt: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    running: dict[int, Step] = field(default_factory=dict)
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)
    pending: dict[int, Step] = field(default_factory=dict)
    stopped_instead: set[str] = field(default_factory=set)
    left_to_host: dict[str, frozenset[int]] = field(default_factory=dict)
    device_mb: dict[str, Mapping[int, int]] = field(default_factory=dict)
    unattributed: Unattributed = field(init=False)

    def __post_init__(self) -> None:
        self.device_mb |= {r.service: r.device_mb for r in self.snapshot.services.values() if r.device_mb}
        self.unattributed = Unattributed.of(self.snapshot)

    def waiting(self, step: Step, text: str) -> None:
        """Tell what a step waits for."""
        self.report(
            Progress(
                kind=ProgressKind.WAITING, run_id=self.run_id, step=step, step_status=StepStatus.RUNNING, text=text
            )
        )


def muted(report: Report) -> Report:
    """`report`, until it fails once: a reader that went away (a closed terminal or pipe) must not stop a run."""
    listening = True

    def tell(news: Progress) -> None:
        nonlocal listening
        if listening:
            try:
                report(news)
            except (Exception, SystemExit):  # noqa: BLE001 - whatever a view does
                listening = False

    return tell
