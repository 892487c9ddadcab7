"""Runs, events and simulations of the past."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from gpumod.cli.text import safe
from gpumod.cli.views.parts import blocks, commas, heading, moment, pairs, problems, seconds, stack, state, table, words
from gpumod.domain.run import Event, Run
from gpumod.operations.results import HistoryListResult, HistoryResult, SimulationsResult


def runs(result: HistoryListResult) -> RenderableType:
    """The latest runs and events."""
    if not result.runs and not result.events:
        return words("nothing was done yet")
    rows = [
        (r.id, moment(r.started_at), r.command, state(r.status), seconds(r.seconds), r.error.code if r.error else "")
        for r in result.runs
    ]
    return blocks(
        table(("RUN", "STARTED", "COMMAND", "STATUS", "TOOK", "ERROR"), rows, fold=("COMMAND",)) if rows else None,
        _events(result.events) if result.events else None,
    )


def _events(events: tuple[Event, ...]) -> RenderableType:
    rows = [(moment(e.at), e.kind, e.subject, _data(e)) for e in events]
    return stack(heading("Events"), table(("AT", "EVENT", "SUBJECT", "DATA"), rows, fold=("DATA",)))


def _data(event: Event) -> str:
    return ", ".join(
        f"{safe(k)}={safe(v if isinstance(v, str) else json.dumps(v, default=str))}" for k, v in event.data.items()
    )


def run(result: HistoryResult) -> RenderableType:
    """One run, step by step."""
    return run_view(result.run)


def run_view(shown: Run) -> RenderableType:
    """A run: who, when, how it ended, and its steps."""
    back = any(step.phase != "apply" for step in shown.steps)
    rows = [
        (
            step.n,
            ("there" if step.phase == "apply" else "back") if back else "",
            step.step.action,
            step.step.service,
            state(step.status),
            seconds(step.seconds),
            step.error.message if step.error else step.detail,
        )
        for step in shown.steps
    ]
    took = seconds(shown.ended_at - shown.started_at) if shown.ended_at is not None else ""
    facts = {
        "run": words(shown.id, "bold"),
        "command": shown.command,
        "by": shown.holder,
        "status": state(shown.status),
        "to mode": shown.target.mode,
        "from mode": shown.mode_before,
        "started": moment(shown.started_at),
        "took": took,
    }
    return blocks(
        pairs(facts),
        table(("N", "WAY", "STEP", "SERVICE", "STATUS", "TOOK", "NOTE"), rows, right=("N",), fold=("NOTE",))
        if rows
        else None,
        *(problems([shown.error]) if shown.error else []),
    )


def simulations(result: SimulationsResult) -> RenderableType:
    """The latest simulations."""
    if not result.simulations:
        return words("nothing was simulated yet")
    rows = [
        (s.id, moment(s.at), _asked(s.base), state(s.verdict), s.peak_mb, commas(s.alternatives))
        for s in result.simulations
    ]
    return table(
        ("SIMULATION", "AT", "OF", "VERDICT", "PEAK MB", "INSTEAD"),
        rows,
        right=("PEAK MB",),
        fold=("OF", "INSTEAD"),
    )


def _asked(base: Mapping[str, Any]) -> str:
    """What was simulated, as the options that ask for it again."""
    words: list[str] = []
    for name, value in base.items():
        option = {"gpu_total_mb": "--gpu-total"}.get(name, f"--{name}")
        values = [f"{key}={one}" for key, one in value.items()] if isinstance(value, Mapping) else value
        if name == "services" and isinstance(value, list):
            values = ",".join(map(str, value))
        for one in values if isinstance(values, list) else [values]:
            words += [option, shlex.quote(str(one))]
    return " ".join(words) or "what ran"
