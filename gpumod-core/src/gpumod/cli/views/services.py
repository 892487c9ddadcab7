"""Definitions and logs of services."""

from __future__ import annotations

import json

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.text import safe
from gpumod.cli.views.parts import blocks, commas, heading, mb, pairs, problems, seconds, stack, table, words
from gpumod.domain.footprint import Footprint
from gpumod.operations.results import LogsResult, ServiceListResult, ServiceResult


def service_list(result: ServiceListResult) -> RenderableType:
    """Every definition."""
    if not result.services:
        return blocks(
            words("no services are defined: see `gpumod preset load` and `gpumod service add`"),
            *problems(result.problems),
        )
    rows = [(s.id, s.driver, s.port, s.vram_mb, s.sleep_mode, s.role, commas(s.needs), s.name) for s in result.services]
    columns = ("SERVICE", "DRIVER", "PORT", "VRAM MB", "SLEEP", "ROLE", "NEEDS", "NAME")
    return blocks(table(columns, rows, right=("PORT", "VRAM MB"), fold=("NEEDS", "NAME")), *problems(result.problems))


def service(result: ServiceResult) -> RenderableType:
    """One definition: its fields, its driver's options, what it takes and why."""
    shown = result.service
    given = shown.model_dump(mode="json", exclude_defaults=True)
    fields = {key: _value(value) for key, value in given.items() if key not in ("id", "unit_vars")}
    facts = {
        "service": words(shown.id, "bold"),
        **fields,
        "modes": commas(result.modes),
        "edited": commas(result.edited),
    }
    options = {key: _value(value) for key, value in shown.unit_vars.items()}
    return blocks(
        pairs(facts),
        stack(heading("Options of the driver"), pairs(options)) if options else None,
        stack(heading("What it takes"), _footprint(result.footprint)),
        _drift(result),
        stack(*(words(note, "yellow") for note in result.notes)) if result.notes else None,
    )


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _footprint(taken: Footprint) -> RenderableType:
    rows = {
        "awake": _number(taken, "vram_mb", taken.vram_mb),
        "while starting": _number(taken, "start_peak_mb", taken.start_peak_mb),
        "asleep": _number(taken, "asleep_mb", taken.asleep_mb),
        "RAM asleep": _number(taken, "ram_asleep_mb", taken.ram_asleep_mb) if taken.ram_asleep_mb else "",
        "starts in": seconds(taken.start_s),
        "sleeps in": seconds(taken.sleep_s),
        "wakes in": seconds(taken.wake_s),
        "stops in": seconds(taken.stop_s),
        "why": taken.why,
    }
    return pairs(rows)


def _number(taken: Footprint, name: str, value: int) -> str:
    source = taken.sources.get(name)
    return f"{mb(value)} ({source})" if source else mb(value)


def _drift(result: ServiceResult) -> RenderableType | None:
    if not result.drift:
        return None
    if result.altered:
        what = words(f"it runs as {result.altered} changed it, with another {commas(result.drift)}", "yellow")
        return stack(what, words(f"back to its definition, without that: {result.apply}"))
    what = words(f"what runs was started with another {commas(result.drift)}", "yellow")
    return stack(what, words(f"to apply it: {result.apply}") if result.apply else None)


def logs(result: LogsResult) -> RenderableType:
    """The lines as they are, one each."""
    if not result.lines:
        return words(f"{result.service} wrote nothing yet")
    return Text("\n".join(safe(line.expandtabs(8)) for line in result.lines), overflow="ignore", no_wrap=True)
