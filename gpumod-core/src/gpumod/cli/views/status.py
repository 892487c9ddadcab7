"""What runs now."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.views.bars import Bar, BarChart, Segment
from gpumod.cli.views.parts import (
    blocks,
    bullets,
    commas,
    heading,
    line,
    mb,
    pairs,
    problems,
    seconds,
    stack,
    state,
    table,
    words,
)
from gpumod.operations.results import ForeignProcess, GpuStatus, PsResult, ServiceStatus, StatusResult

MARKS = {"A": "adopted from others", "D": "drift: defined otherwise now, a restart applies it"}
"""What stands beside a service."""
DIFFERENCE = "its VRAM is the device's difference: the driver does not tell what a process holds"


def status(result: StatusResult, *, visual: bool = False) -> RenderableType:
    """The mode, GPUs (drawn to scale when `visual`), services, foreign processes, and what is wrong."""
    alive = [service for service in result.services if service.state not in ("stopped", "failed")]
    return blocks(
        stack(
            line(
                "mode " if result.mode else "no mode",
                words(result.mode, "bold") if result.mode else "",
                f" with alternative {result.alternative}" if result.alternative else "",
                f" (before: {result.previous_mode})" if result.previous_mode else "",
            ),
            words(f"changing now: {result.busy}", "yellow") if result.busy else None,
            words(result.put_back, "yellow") if result.put_back else None,
            *(words(row.in_words, "yellow") for row in result.leases),
            *(words(turn, "yellow") for turn in result.turns),
            words(f"run {result.open_run} was left half-way: see `gpumod recover`", "red") if result.open_run else None,
        ),
        *(_charts(result) if visual else [_gpus(result)]),
        _services(result.services) if result.services else words("no services are defined: see `gpumod preset load`"),
        _foreign(result.foreign) if result.foreign else None,
        line(
            f"{len(alive)} of {len(result.services)} services up; ",
            f"host RAM: {result.ram_available_mb} of {mb(result.ram_total_mb)} available",
        ),
        *problems(result.problems),
    )


def _gpus(result: StatusResult) -> RenderableType:
    if not result.gpus:
        return words("no GPU was found", "yellow")
    return table(
        ("GPU", "NAME", "TOTAL MB", "USED", "FREE", "RESERVE", "FOREIGN"),
        [(g.index, g.name, g.total_mb, g.used_mb, g.free_mb, g.reserve_mb, g.foreign_mb) for g in result.gpus],
        right=("TOTAL MB", "USED", "FREE", "RESERVE", "FOREIGN"),
        fold=("NAME",),
    )


def _services(services: tuple[ServiceStatus, ...]) -> RenderableType:
    rows = [
        (s.id, _marks(s), s.driver, _state(s), s.vram_mb or "", s.port, s.pid, seconds(s.uptime_seconds))
        for s in services
    ]
    columns = ("SERVICE", "MARK", "DRIVER", "STATE", "VRAM MB", "PORT", "PID", "UP")
    notes = [note for service in services for note in _notes(service)]
    seen = {mark for service in services for mark in _marks(service)}
    legend = "; ".join(f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in seen)
    return stack(
        table(columns, rows, right=("VRAM MB", "PORT", "PID"), fold=("DRIVER",)),
        words(legend, "dim") if legend else None,
        bullets(notes) if notes else None,
    )


def _marks(service: ServiceStatus) -> str:
    return "A" * (service.adopted is not None) + "D" * bool(service.drift)


def _state(service: ServiceStatus) -> Text:
    return line(state(service.state), f" ({service.sleep_level})" if service.sleep_level else "")


def _notes(service: ServiceStatus) -> list[Text]:
    notes = [words(f"{service.id}: {service.last_error}", "red")] if service.last_error else []
    if service.source == "device":
        notes.append(words(f"{service.id}: {DIFFERENCE}"))
    if service.drift:
        notes.append(words(f"{service.id}: {_drift(service)}", "yellow"))
    return notes


def _drift(service: ServiceStatus) -> str:
    if service.altered:
        return f"runs as {service.altered} changed it, with another {commas(service.drift)}"
    return f"runs with another {commas(service.drift)} than is defined now"


def _foreign(foreign: tuple[ForeignProcess, ...]) -> RenderableType:
    rows = [(p.pid, p.name, p.gpu, "?" if p.vram_mb is None else p.vram_mb) for p in foreign if p.pid is not None]
    nobodys = [
        words(f"{mb(p.vram_mb)} of GPU {p.gpu} are unattributed: no known process holds them", "yellow")
        for p in foreign
        if p.pid is None
    ]
    columns = ("PID", "PROCESS", "GPU", "VRAM MB")
    return stack(
        heading("Not ours"), table(columns, rows, right=("VRAM MB",), fold=("PROCESS",)) if rows else None, *nobodys
    )


def _charts(result: StatusResult) -> list[RenderableType]:
    return [
        BarChart(_title(gpu), (now_bar(gpu, result),), total_mb=gpu.total_mb, reserve_mb=gpu.reserve_mb)
        for gpu in result.gpus
    ]


def _title(gpu: GpuStatus) -> str:
    return f"GPU {gpu.index}  {gpu.name}  {gpu.used_mb} of {mb(gpu.total_mb)} used"


def now_bar(gpu: GpuStatus, result: StatusResult) -> Bar:
    """What is on `gpu` now, services first."""
    segments = [
        Segment(label=service.id, mb=held, asleep=service.state == "sleeping")
        for service in result.services
        if (held := service.vram_by_gpu.get(gpu.index, 0))
    ]
    return Bar(label="now", segments=tuple(segments), foreign_mb=gpu.foreign_mb)


def service_status(result: ServiceStatus) -> RenderableType:
    """One service as it is now."""
    return pairs(
        {
            "service": words(result.id, "bold"),
            "name": result.name,
            "driver": result.driver,
            "adopted": result.adopted,
            "state": _state(result),
            "healthy": {True: "yes", False: "no", None: ""}[result.health_ok],
            "VRAM": f"{mb(result.vram_mb)} (declared {mb(result.declared_mb)})"
            + (f"; {DIFFERENCE}" if result.source == "device" else ""),
            "on GPU": commas(result.gpus),
            "port": result.port,
            "pid": result.pid,
            "up": seconds(result.uptime_seconds),
            "drift": _drift_of_one(result),
            "last error": words(result.last_error or "", "red"),
        }
    )


def _drift_of_one(result: ServiceStatus) -> str:
    if not result.drift:
        return ""
    return _drift(result) + ("" if result.altered else f": `gpumod service restart {result.id}` applies it")


def processes(result: PsResult) -> RenderableType:
    """Processes on the GPUs."""
    leases = stack(*(words(row.in_words, "yellow") for row in result.leases)) if result.leases else None
    if not result.processes:
        return blocks(words("no process of a service, and none on a GPU"), leases)
    processes = table(
        ("PID", "PROCESS", "SERVICE", "GPU", "VRAM MB"),
        [
            (p.pid, p.name, p.service or words("not ours", "yellow"), p.gpu, "?" if p.vram_mb is None else p.vram_mb)
            for p in result.processes
        ],
        right=("VRAM MB",),
        fold=("PROCESS",),
    )
    return blocks(processes, leases)
