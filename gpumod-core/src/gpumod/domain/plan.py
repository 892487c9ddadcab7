"""A plan: the steps from what is to what is wanted, as a value that can be shown, stored and executed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from gpumod.domain.base import Frozen
from gpumod.domain.footprint import Source
from gpumod.domain.mode import Want
from gpumod.domain.states import Action


class VerdictKind(StrEnum):
    FITS = "fits"
    FITS_TIME_SHARED = "fits-time-shared"
    NOTHING_TO_DO = "nothing-to-do"
    DOES_NOT_FIT = "does-not-fit"


class TargetMember(Frozen):
    """One service that is wanted. `gpus` fixes where it goes (a rollback puts it back where it was). `why` is said of
    one that is wanted for a reason of its own."""

    service: str
    want: Want = Want.AWAKE
    start_order: int = 0
    gpus: tuple[int, ...] | None = None
    why: str = ""


class Target(Frozen):
    """What is wanted of the machine.

    Services that are not members are stopped when `stop_others`, else left as they are. `stop` names services to
    be stopped in any case, `restart` those to be stopped and started although they serve (a changed definition).
    `altered` says of each service whose definition is not the stored one what changed it: an alternative, in words.
    `mode` is recorded when the target is reached, with the id of the `alternative` of it that was taken; None leaves
    the recorded mode alone. `context` are tokens of context that were asked for, by service, instead of those of its
    definition.
    """

    mode: str | None = None
    alternative: str | None = None
    members: tuple[TargetMember, ...] = ()
    stop_others: bool = True
    stop: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    altered: Mapping[str, str] = {}
    context: Mapping[str, int] = {}


class Lease(Frozen):
    """Memory or a service held for a while by somebody. The planner keeps a leased service, and counts the memory."""

    id: str
    holder: str
    service: str | None = None
    gpu: int | None = None
    vram_mb: int = 0
    until: float | None = None


class Policy(Frozen):
    """What the user decided. `cascade` allows stopping what others depend on (they are stopped too)."""

    reserve_mb: int = 512
    ram_reserve_mb: int = 1024
    cascade: bool = False
    alternatives: bool = True


class StepGpu(Frozen):
    """What one step does to one GPU, in MiB over all managed services: before, reserved at its peak, after."""

    index: int
    before_mb: int
    peak_mb: int
    after_mb: int


class StepRam(Frozen):
    before_mb: int
    peak_mb: int
    after_mb: int


class Step(Frozen):
    """One step. It may begin when every step in `waits_for` (numbers `n`) is done.

    `gpus` are the machine's managed totals along the predicted schedule; `takes_mb` and `gives_mb` map GPU index to
    what this step reserves at admission and gives back when done. `placed_on` is where the service lives. An
    `exclusive` step runs while no other step changes memory on its GPUs. `expected_s` was measured in earlier runs
    where `expected_measured` says so; else it is a guess, the same for every service.
    """

    n: int
    action: Action
    service: str
    level: str | None = None
    why: str
    waits_for: tuple[int, ...] = ()
    exclusive: bool = False
    placed_on: tuple[int, ...] = ()
    gpus: tuple[StepGpu, ...] = ()
    ram: StepRam | None = None
    takes_mb: Mapping[int, int] = {}
    gives_mb: Mapping[int, int] = {}
    expected_s: float | None = None
    expected_measured: bool = False
    starts_at_s: float = 0.0


class PlanGpu(Frozen):
    """One GPU in a plan. `exceeds_by_mb` is `peak_mb - budget_mb` where that is positive because of the plan.

    `unattributed_mb` is the part of `foreign_mb` that no known process holds.
    """

    index: int
    name: str
    total_mb: int
    reserve_mb: int
    foreign_mb: int
    budget_mb: int
    before_mb: int
    peak_mb: int
    after_mb: int
    exceeds_by_mb: int = 0
    unattributed_mb: int = 0


class PlanService(Frozen):
    """One service that the plan counts: wanted awake, asleep, time-shared, stopped or kept.

    `before_mb` and `after_mb` map GPU index to MiB held before the first step and after the last one.
    """

    id: str
    wanted: str
    vram_mb: int
    source: Source
    gpus: tuple[int, ...] = ()
    why: str = ""
    before_mb: Mapping[int, int] = {}
    after_mb: Mapping[int, int] = {}


class Turn(Frozen):
    """One turn of a time-shared mode: `service` awake, the other sharers asleep with `residue_mb`, inside `peak_mb`."""

    service: str
    gpu: int
    peak_mb: int
    residue_mb: int


class AlternativeKind(StrEnum):
    TIME_SHARE = "time-share"
    CONTEXT = "context"
    KV_TYPE = "kv-type"
    SMALLER_PRESET = "smaller-preset"
    CPU_OFFLOAD = "cpu-offload"
    LEAVE_OUT = "leave-out"
    COMBINATION = "combination"


class Changes(Frozen):
    """What an alternative changes: plain data, applied by :func:`gpumod.planner.changes.apply_changes`.

    `unit_vars` and `vram_mb` are per service (a variant that its driver offers; with a smaller context, what is left of
    what was measured); `replace` maps a service to the
    one that takes its place.
    """

    time_share: tuple[str, ...] = ()
    context_size: Mapping[str, int] = {}
    unit_vars: Mapping[str, Mapping[str, Any]] = {}
    vram_mb: Mapping[str, int] = {}
    replace: Mapping[str, str] = {}
    leave_out: tuple[str, ...] = ()


class Variant(Frozen):
    """Another way to run a service that its driver offers: fewer MiB for some cost. `saves_mb` > 0, except where a log
    line proposes it: that may save nothing that is planned."""

    kind: AlternativeKind
    title: str
    unit_vars: Mapping[str, Any]
    saves_mb: int
    cost: float = 1.0


class Alternative(Frozen):
    """Another target that was itself planned and fits. `id` is derived from its content."""

    id: str
    kind: AlternativeKind
    title: str
    changes: Changes
    verdict: VerdictKind
    peak_mb: int
    cost: float = 0.0


class Plan(Frozen):
    """The steps, and VRAM per GPU. `why` explains the verdict; `id` is derived from steps and definitions."""

    id: str
    target: Target
    verdict: VerdictKind
    why: str = ""
    gpus: tuple[PlanGpu, ...] = ()
    services: tuple[PlanService, ...] = ()
    steps: tuple[Step, ...] = ()
    turns: tuple[Turn, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    notes: tuple[str, ...] = ()
    ram_peak_mb: int = 0
    ram_budget_mb: int = 0
    ram_exceeds_by_mb: int = 0
    expected_s: float | None = None

    @property
    def fits(self) -> bool:
        return self.verdict is not VerdictKind.DOES_NOT_FIT

    @property
    def exceeds_by_mb(self) -> int:
        """The largest misfit over all GPUs."""
        return max((gpu.exceeds_by_mb for gpu in self.gpus), default=0)
