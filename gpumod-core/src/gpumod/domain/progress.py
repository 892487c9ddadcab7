"""What a running change tells while it works."""

from __future__ import annotations

from enum import StrEnum

from gpumod.domain.base import Frozen
from gpumod.domain.plan import Plan, Step
from gpumod.domain.run import StepStatus


class ProgressKind(StrEnum):
    PLANNED = "planned"
    STEP = "step"
    WAITING = "waiting"
    ROLLBACK = "rollback"
    ENDED = "ended"


class Progress(Frozen):
    """One piece of news of a run: the plan at its beginning, a step that began, goes on or ended, the way back (first
    that it begins, then its plan).

    `step_status` goes with STEP and WAITING; `text` says what is waited for, or why it turns back.
    """

    kind: ProgressKind
    run_id: str
    plan: Plan | None = None
    step: Step | None = None
    step_status: StepStatus | None = None
    seconds: float | None = None
    text: str = ""
