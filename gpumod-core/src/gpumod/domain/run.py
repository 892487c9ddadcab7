"""What happened: runs, their steps, events and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.machine import ServiceReading
from gpumod.domain.plan import Plan, Step, Target
from gpumod.domain.service import Service


class RunStatus(StrEnum):
    """`running` is an open run: a changer is at work, or died (then `recover` closes it)."""

    RUNNING = "running"
    DONE = "done"
    NOTHING_TO_DO = "nothing-to-do"
    REFUSED = "refused"
    ROLLED_BACK = "rolled-back"
    HALF_WAY = "half-way"
    FAILED = "failed"


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


CUT_OFF = ("cut-off", "interrupted")
"""The codes of the errors of steps that nobody waited for to the end: no fault of their services."""


class RunStep(Frozen):
    """One journalled step. `phase` tells the way there (`apply`) from the way back (`rollback`)."""

    n: int
    phase: Literal["apply", "rollback"] = "apply"
    step: Step
    status: StepStatus = StepStatus.PENDING
    started_at: float | None = None
    seconds: float | None = None
    error: ErrorInfo | None = None
    detail: str = ""


class Run(Frozen):
    """One execution of a plan.

    `before` (readings) and `definitions` are what was there, as observed under the lock: the target of a rollback.
    `wanted` are the definitions that the target is reached with. `mode_before` is the mode recorded at the beginning.
    `lease` is the id of the lease for which it makes room. `boot` is the id of the machine's boot in which it began.
    """

    id: str
    command: str
    holder: str
    boot: str = ""
    status: RunStatus
    target: Target
    plan: Plan
    before: Mapping[str, ServiceReading] = {}
    definitions: Mapping[str, Service] = {}
    wanted: Mapping[str, Service] = {}
    mode_before: str | None = None
    lease: str | None = None
    started_at: float
    ended_at: float | None = None
    error: ErrorInfo | None = None
    steps: tuple[RunStep, ...] = ()


class Handle(Frozen):
    """What ties a service to the process or unit that runs it.

    `nonce` is journalled before the spawn; `token` is the supervisor's own (pid, start time, unit name), empty while
    the spawn is under way. `launched` is the definition used, and `altered` says which alternative had changed it.
    `boot` is the id of the machine's boot in which it was started, where that was noted.
    `device_mb` maps GPU index to the MiB by which the whole device's use differs since the service was started, slept
    or woken, where the driver told no process for it. `slept_mb` is what it kept when it fell asleep, where nothing but
    its memory tells whether it sleeps. `visible` are the GPUs that its process was shown, in the order in which it
    counts them; empty where that is not known. `served` is what its server had counted when it was started or woken
    (:class:`gpumod.domain.activity.Activity`); None where it did not tell.
    """

    service: str
    supervisor: str
    nonce: str
    token: Mapping[str, Any] = {}
    launched: Service
    altered: str = ""
    gpus: tuple[int, ...] = ()
    visible: tuple[int, ...] = ()
    started_at: float
    boot: str = ""
    device_mb: Mapping[int, int] = {}
    slept_mb: int | None = None
    served: float | None = 0.0


STOPPED_INSTEAD = "stopped-instead"
"""The event of a service whose sleep has freed nothing."""
STOP_ASKED = "stop-asked"
"""The kind of event that says of a service that somebody told it to stop when it was down already: that is no run."""


class Event(Frozen):
    """One thing that happened to a service, a mode, a setting or a run."""

    at: float
    kind: str
    subject: str
    data: Mapping[str, Any] = {}


class Sample(Frozen):
    """A measurement of a service: settled and peak VRAM, asleep residue, or how long an action took.

    `key` is derived from launch options and GPUs (:func:`gpumod.domain.measure.sample_key`).
    """

    service: str
    key: str
    at: float
    kind: Literal["settled_mb", "peak_mb", "asleep_mb", "start_s", "stop_s", "sleep_s", "wake_s"]
    value: float
