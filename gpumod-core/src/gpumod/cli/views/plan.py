"""Plans: what a simulation shows, and what a change that does not fit says."""

from __future__ import annotations

import shlex
from itertools import pairwise

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.views.bars import Bar, BarChart, Segment
from gpumod.cli.views.parts import blocks, bullets, expected, heading, line, mb, stack, state, table, words
from gpumod.domain.plan import Alternative, Plan, PlanGpu, PlanService, Step, StepGpu
from gpumod.domain.states import Action
from gpumod.operations.results import SimulateResult


def simulation(result: SimulateResult, *, visual: bool = False) -> RenderableType:
    """Verdict, numbers, steps, turns, alternatives with the command that takes one."""
    return blocks(
        plan(result, visual=visual),
        words(f"simulation {result.simulation_id}", "dim") if result.simulation_id else None,
    )


def plan(shown: Plan, *, visual: bool = False) -> RenderableType:
    """A plan: verdict, GPUs, services, steps, turns, host RAM, and what fits instead."""
    return blocks(
        stack(line(state(shown.verdict), f": {shown.why}" if shown.why else ""), _time(shown)),
        *(_charts(shown) if visual else [_gpus(shown)]),
        _services(shown) if shown.services else None,
        _steps(shown) if shown.steps else None,
        _turns(shown) if shown.turns else None,
        _ram(shown),
        bullets(shown.notes) if shown.notes else None,
        _alternatives(shown) if shown.alternatives else None,
        words("no alternative was found that fits") if not shown.fits and not shown.alternatives else None,
    )


def _time(shown: Plan) -> Text | None:
    if not shown.steps or not shown.expected_s:
        return None
    guessed = any(not step.expected_measured for step in shown.steps if step.action is not Action.VERIFY)
    told = "expected to take " + expected(shown.expected_s, measured=not guessed)
    return words(f"{told} (~: a guess, it was not measured yet)" if guessed else told)


def _gpus(shown: Plan) -> RenderableType:
    return table(
        ("GPU", "NAME", "TOTAL MB", "BUDGET", "BEFORE", "PEAK", "AFTER", "EXCEEDS BY"),
        [
            (g.index, g.name, g.total_mb, g.budget_mb, g.before_mb, g.peak_mb, g.after_mb, _excess(g))
            for g in shown.gpus
        ],
        right=("TOTAL MB", "BUDGET", "BEFORE", "PEAK", "AFTER", "EXCEEDS BY"),
        fold=("NAME",),
    )


def _excess(gpu: PlanGpu) -> Text:
    return words(gpu.exceeds_by_mb or "", "bold red")


def _services(shown: Plan) -> RenderableType:
    return table(
        ("SERVICE", "WANTED", "VRAM MB", "NUMBER IS", "WHY"),
        [(s.id, s.wanted, s.vram_mb, s.source, s.why) for s in shown.services],
        right=("VRAM MB",),
        fold=("WHY",),
    )


def _steps(shown: Plan) -> RenderableType:
    several = len(shown.gpus) > 1
    rows = [
        (
            step.n,
            _action(step),
            step.service,
            " ".join(str(n) for n in step.waits_for),
            "/".join(str(gpu.index) for gpu in step.gpus) if several else "",
            "/".join(str(_most_mb(shown, step, gpu)) for gpu in step.gpus),
            "/".join(str(gpu.after_mb) for gpu in step.gpus),
            expected(step.expected_s, measured=step.expected_measured),
            step.why,
        )
        for step in shown.steps
    ]
    columns = ("N", "STEP", "SERVICE", "WAITS", "GPU", "PEAK", "AFTER", "TAKES", "WHY")
    numbers = ("N", "PEAK", "AFTER")
    return stack(
        heading("Steps"),
        table(columns, rows, right=numbers, fold=("WAITS", "WHY")),
        words("PEAK, AFTER: MiB held while and after a step, with those that run beside it", "dim")
        if any(_overlap(*pair) for pair in pairwise(shown.steps))
        else None,
    )


def _overlap(step: Step, later: Step) -> bool:
    """True where `later`, which does not begin before `step`, begins while that runs."""
    return step.n not in later.waits_for and later.starts_at_s < step.starts_at_s + (step.expected_s or 0)


def _most_mb(shown: Plan, step: Step, gpu: StepGpu) -> int:
    """The most MiB that are held on `gpu` from the begin of `step` to its end: what begins meanwhile counts."""
    beside = [later for later in shown.steps if later.n > step.n and _overlap(step, later)]
    peaks = [other.peak_mb for later in beside for other in later.gpus if other.index == gpu.index]
    return max(gpu.peak_mb, gpu.after_mb, *peaks)


def _action(step: Step) -> str:
    return f"{step.action} ({step.level})" if step.level else str(step.action)


def _turns(shown: Plan) -> RenderableType:
    return stack(
        heading("Turns (one awake at a time)"),
        table(
            ("SERVICE", "GPU", "PEAK MB", "OF WHICH ASLEEP"),
            [(t.service, t.gpu, t.peak_mb, t.residue_mb) for t in shown.turns],
            right=("PEAK MB", "OF WHICH ASLEEP"),
        ),
    )


def _ram(shown: Plan) -> Text | None:
    peak, budget = mb(shown.ram_peak_mb), mb(shown.ram_budget_mb)
    if shown.ram_exceeds_by_mb:
        over = mb(shown.ram_exceeds_by_mb)
        return words(f"host RAM: services would hold {peak}, {over} more than the budget of {budget}", "red")
    return words(f"host RAM: services hold at most {shown.ram_peak_mb} of {budget}") if shown.ram_peak_mb else None


def _alternatives(shown: Plan) -> RenderableType:
    """Those of a mode are taken by id; else they say what would help."""
    first = shown.alternatives[0]
    mode = shown.target.mode
    rows = [(*((a.id,) if mode else ()), a.kind, a.peak_mb, _title(a)) for a in shown.alternatives]
    heads = (*(("ID",) if mode else ()), "KIND", "PEAK MB", "WHAT")
    return stack(
        heading("What fits instead"),
        table(heads, rows, right=("PEAK MB",), fold=("WHAT",)),
        line("take one: ", words(f"gpumod switch {shlex.quote(mode)} --with {shlex.quote(first.id)}", "bold"))
        if mode
        else None,
    )


def _title(alternative: Alternative) -> str:
    shared = (
        " (takes turns)" if alternative.verdict == "fits-time-shared" and "take turns" not in alternative.title else ""
    )
    return alternative.title + shared


def _charts(shown: Plan) -> list[RenderableType]:
    return [
        BarChart(
            f"GPU {gpu.index}  {gpu.name}  budget {gpu.budget_mb} of {mb(gpu.total_mb)}",
            (_bar(gpu, shown, before=True), _bar(gpu, shown, before=False)),
            total_mb=gpu.total_mb,
            reserve_mb=gpu.reserve_mb,
            peak_mb=gpu.peak_mb + gpu.foreign_mb,
            note=f"does not fit: {mb(gpu.exceeds_by_mb)} too much" if gpu.exceeds_by_mb else "",
        )
        for gpu in shown.gpus
    ]


def _bar(gpu: PlanGpu, shown: Plan, *, before: bool) -> Bar:
    held = gpu.before_mb if before else gpu.after_mb
    segments = [
        Segment(label=service.id, mb=level, asleep=not before and service.wanted in ("asleep", "time-shared"))
        for service in shown.services
        if (level := _level(service, gpu.index, before=before))
    ]
    rest = held - sum(segment.mb for segment in segments)
    if rest > 0:
        segments.append(Segment(label="other services", mb=rest))
    return Bar(label="now" if before else "then", segments=tuple(segments), foreign_mb=gpu.foreign_mb)


def _level(service: PlanService, gpu: int, *, before: bool) -> int:
    """MiB that `service` holds on `gpu` before or after; 0 where the plan does not tell."""
    return (service.before_mb if before else service.after_mb).get(gpu, 0)
