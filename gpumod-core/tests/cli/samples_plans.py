"""Hand-made plans, changes, runs and simulations: samples for the views (see conftest)."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.footprint import Source
from gpumod.domain.plan import (
    Alternative,
    AlternativeKind,
    Changes,
    Plan,
    PlanGpu,
    PlanService,
    Step,
    StepGpu,
    Target,
    Turn,
    VerdictKind,
)
from gpumod.domain.run import Event, Run, RunStatus, RunStep, StepStatus
from gpumod.domain.states import Action
from gpumod.operations import lease_results as le
from gpumod.operations import results as r

CARD = "Simulated RTX 4090"
ERROR = ErrorInfo(
    code="start-timeout",
    message="glm-code was not ready in 600 s",
    why="it answered /health with 503",
    hint="gpumod service logs glm-code",
)

STEPS = (
    Step(
        n=1, action=Action.STOP, service="chat", why="not in mode code", placed_on=(0,), gives_mb={0: 7000},
        gpus=(StepGpu(index=0, before_mb=9500, peak_mb=9500, after_mb=2500),), expected_s=1.5,
        expected_measured=True,
    ),
    Step(
        n=2, action=Action.START, service="glm-code", why="wanted by mode code", waits_for=(1,), placed_on=(0,),
        takes_mb={0: 19100}, gpus=(StepGpu(index=0, before_mb=2500, peak_mb=21600, after_mb=21600),), expected_s=42.0,
    ),
    Step(n=3, action=Action.VERIFY, service="*", why="the whole mode", waits_for=(1, 2)),
)  # fmt: skip
FITS = Plan(
    id="p-1",
    target=Target(mode="code"),
    verdict=VerdictKind.FITS,
    why="peak 21600 of 24052 MB on GPU 0",
    gpus=(
        PlanGpu(
            index=0, name=CARD, total_mb=24564, reserve_mb=512, foreign_mb=0, budget_mb=24052, before_mb=9500,
            peak_mb=21600, after_mb=21600,
        ),
    ),
    services=(
        PlanService(
            id="embedding-code", wanted="awake", vram_mb=2500, source=Source.MEASURED, gpus=(0,),
            before_mb={0: 2500}, after_mb={0: 2500},
        ),
        PlanService(
            id="glm-code", wanted="awake", vram_mb=19100, source=Source.DECLARED, gpus=(0,), after_mb={0: 19100}
        ),
        PlanService(
            id="chat", wanted="stopped", vram_mb=7000, source=Source.ESTIMATED, gpus=(0,), before_mb={0: 7000},
            why="not in mode code",
        ),
    ),
    steps=STEPS,
    expected_s=43.5,
)  # fmt: skip
MISFIT = FITS.model_copy(
    update={
        "id": "p-2",
        "verdict": VerdictKind.DOES_NOT_FIT,
        "why": "GPU 0 is 3548 MB short: embedding-code 2500, glm-code 19100, reranker 6000",
        "gpus": (
            FITS.gpus[0].model_copy(
                update={"before_mb": 0, "peak_mb": 27600, "after_mb": 27600, "exceeds_by_mb": 3548}
            ),
        ),
        "services": (
            *(s.model_copy(update={"before_mb": {}}) for s in FITS.services[:2]),
            PlanService(
                id="reranker", wanted="awake", vram_mb=6000, source=Source.DECLARED, gpus=(0,), after_mb={0: 6000}
            ),
        ),
        "steps": STEPS[1:],
        "alternatives": (
            Alternative(
                id="a1f4c2",
                kind=AlternativeKind.TIME_SHARE,
                title="glm-code and reranker take turns",
                changes=Changes(time_share=("glm-code", "reranker")),
                verdict=VerdictKind.FITS_TIME_SHARED,
                peak_mb=21600,
            ),
            Alternative(
                id="b77e01",
                kind=AlternativeKind.SMALLER_PRESET,
                title="reranker-base (1500 MB) instead of reranker",
                changes=Changes(replace={"reranker": "reranker-base"}),
                verdict=VerdictKind.FITS,
                peak_mb=23100,
            ),
        ),
        "notes": ("one number is declared by a preset, never measured",),
    }
)
SHARED = FITS.model_copy(
    update={
        "verdict": VerdictKind.FITS_TIME_SHARED,
        "target": Target(mode="rag"),
        "why": "at most one of hyde, reranker, chat is awake",
        "gpus": (
            FITS.gpus[0].model_copy(
                update={"foreign_mb": 900, "budget_mb": 23152, "before_mb": 0, "peak_mb": 15700, "after_mb": 9800}
            ),
        ),
        "services": (
            PlanService(
                id="embedding", wanted="awake", vram_mb=4000, source=Source.DECLARED, gpus=(0,), after_mb={0: 4000}
            ),
            PlanService(
                id="hyde", wanted="time-shared", vram_mb=5000, source=Source.DECLARED, gpus=(0,), after_mb={0: 1100}
            ),
            PlanService(
                id="chat", wanted="time-shared", vram_mb=7000, source=Source.DECLARED, gpus=(0,), after_mb={0: 1100}
            ),
        ),
        "steps": (),
        "turns": (
            Turn(service="hyde", gpu=0, peak_mb=13700, residue_mb=2200),
            Turn(service="chat", gpu=0, peak_mb=15700, residue_mb=2200),
        ),
        "ram_peak_mb": 5800,
        "ram_budget_mb": 60000,
    }
)


def simulated(plan: Plan) -> r.SimulateResult:
    return r.SimulateResult(**dict(plan), simulation_id="s-20")


RUN = Run(
    id="r-7f3a",
    command="switch code",
    holder="ann@desk pid 812",
    status=RunStatus.HALF_WAY,
    target=Target(mode="code"),
    plan=FITS,
    mode_before="rag",
    started_at=1_767_225_600.0,
    error=ERROR,
    steps=(
        RunStep(n=1, step=STEPS[0], status=StepStatus.DONE, started_at=1_767_225_600.0, seconds=1.4),
        RunStep(n=2, step=STEPS[1], status=StepStatus.FAILED, started_at=1_767_225_601.4, seconds=600.0, error=ERROR),
    ),
)
RESULTS = tuple(
    r.StepResult(
        n=step.n,
        action=step.action,
        service=step.service,
        status="done",
        seconds=1.4,
        expected_s=step.expected_s,
        expected_measured=step.expected_measured,
    )
    for step in STEPS
)
ROLLED_BACK = r.ChangeResult(
    run_id="r-7f3b",
    mode="code",
    status=RunStatus.ROLLED_BACK,
    steps=(
        RESULTS[0],
        RESULTS[1].model_copy(update={"status": "failed", "error": ERROR, "seconds": 600.0}),
        r.StepResult(n=1, action="start", service="chat", status="done", seconds=8.0, phase="rollback"),
    ),
    error=ERROR,
    exit_code=6,
)
RESTARTED = r.ChangeResult(run_id="r-7f3c", mode="code", status=RunStatus.DONE, steps=RESULTS[:2])

LEASE = r.LeaseRow(
    id="l-1",
    holder="ann: python train.py (pid 812)",
    gpu=0,
    vram_mb=12000,
    used_mb=9000,
    since=1_767_225_600.0,
    until=1_767_229_200.0,
    pid=812,
    in_words="12000 MiB of GPU 0 are leased to ann: python train.py (pid 812), until 01:00:00",
)

SAMPLES: dict[str, Frozen] = {
    "change-done": r.ChangeResult(run_id="r-7f3a", mode="code", status=RunStatus.DONE, steps=RESULTS),
    "free": le.FreeResult(
        lease=LEASE,
        change=r.ChangeResult(run_id="r-7f3a", mode="code", status=RunStatus.DONE, steps=RESULTS),
        next="gpumod free --back",
    ),
    "free-back": le.FreeResult(
        back=r.ChangeResult(run_id="r-7f3a", mode="code", status=RunStatus.DONE, steps=RESULTS), notes=("a note",)
    ),
    "free-dry-run": le.FreeResult(
        change=r.ChangeResult(run_id=None, mode=None, status=RunStatus.DONE, plan=FITS, dry_run=True)
    ),
    "change-nothing": r.ChangeResult(run_id=None, mode="code", status=RunStatus.NOTHING_TO_DO),
    "change-rolled-back": ROLLED_BACK,
    "change-dry-run": r.ChangeResult(run_id=None, mode="code", status=RunStatus.DONE, plan=FITS, dry_run=True),
    "change-refused": r.ChangeResult(
        run_id=None,
        mode="code",
        status=RunStatus.REFUSED,
        plan=MISFIT,
        exit_code=3,
        error=ErrorInfo(code="does-not-fit", message="mode code does not fit"),
    ),
    "recover-open": r.RecoverResult(open_run=RUN),
    "recover-none": r.RecoverResult(open_run=None),
    "recover-done": r.RecoverResult(open_run=RUN, change=ROLLED_BACK, notes=("run r-7f3a is closed",)),
    "simulate-fits": simulated(FITS),
    "simulate-misfit": simulated(MISFIT),
    "simulate-shared": simulated(SHARED),
    "history": r.HistoryListResult(
        runs=(
            r.RunRow(
                id="r-7f3a",
                command="switch code",
                status=RunStatus.DONE,
                mode="code",
                started_at=1_767_225_600.0,
                seconds=43.1,
                steps=3,
            ),
            r.RunRow(
                id="r-7f39",
                command="switch rag",
                status=RunStatus.ROLLED_BACK,
                mode="rag",
                started_at=1_767_222_000.0,
                seconds=610.0,
                steps=5,
                error=ERROR,
            ),
        ),
        events=(Event(at=1_767_225_643.0, kind="mode-changed", subject="code", data={"from": "rag", "services": 2}),),
    ),
    "history-empty": r.HistoryListResult(runs=()),
    "run": r.HistoryResult(run=RUN),
    "simulations": r.SimulationsResult(
        simulations=(
            r.SimulationRow(
                id="s-20",
                at=1_767_225_600.0,
                base={"mode": "code", "add": ["reranker"]},
                verdict="does-not-fit",
                peak_mb=27600,
                alternatives=("a1f4c2", "b77e01"),
            ),
            r.SimulationRow(
                id="s-19",
                at=1_767_225_600.0,
                base={"services": ["chat", "tts"], "context": {"chat": 8192}, "gpu_total_mb": 24576},
                verdict="fits",
                peak_mb=12000,
                alternatives=(),
            ),
            r.SimulationRow(
                id="s-18", at=1_767_225_600.0, base={}, verdict="nothing-to-do", peak_mb=0, alternatives=()
            ),
        )
    ),
}
