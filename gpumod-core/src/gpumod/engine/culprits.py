"""Who holds memory that should be free, in words: what a release did not give back, and what was taken since a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from gpumod.domain.machine import GpuProcess
from gpumod.engine.context import RunContext
from gpumod.engine.device import is_untold, nobodys_mb, told_by
from gpumod.engine.machine import Reading
from gpumod.engine.pids import managed_pids, pids_of
from gpumod.engine.unattributed import TOLERANCE_MB

MOST_NAMED = 5
"""So many are named who took memory since a plan was made."""


async def not_released(
    holders: Sequence[GpuProcess],
    reading: Reading,
    ctx: RunContext,
    gpus: Collection[int],
    missing_mb: Mapping[int, int],
) -> str:
    """Who holds what a service let go of: its own processes (`holders`), else strangers who took more, or nobody
    (`missing_mb` per GPU)."""
    strangers = await _strangers(reading, ctx, gpus)
    named = [_process(p) for p in holders] or [*_grown(strangers, ctx, TOLERANCE_MB)]
    return ", ".join([*named, *_nobodys(missing_mb, TOLERANCE_MB)])


async def taken(reading: Reading, ctx: RunContext, gpus: Collection[int]) -> str:
    """Who took what was free when the plan was made: strangers, services that hold more than the plan counts, and
    nobody; where that names none, whose memory the driver does not tell. Who took only a little is named where nobody
    took more."""
    strangers = await _strangers(reading, ctx, gpus)
    more_mb = await _more_mb(reading, ctx, gpus)
    newly_mb = {g: nobodys_mb(ctx, reading, g) - ctx.snapshot.unattributed_mb(g) for g in gpus}
    nameless = [f"{p.name} (pid {p.pid})" for p in strangers if p.vram_mb is None]
    untold = nameless or any(is_untold(ctx, reading, gpu) for gpu in gpus)
    for least_mb in (TOLERANCE_MB,) if untold else (TOLERANCE_MB, 0):
        services = [f"service {s} with {mb} MiB more" for s, mb in more_mb.items() if mb > least_mb]
        if parts := [*_grown(strangers, ctx, least_mb), *services, *_nobodys(newly_mb, least_mb)]:
            others = [f"{len(parts) - MOST_NAMED} others"] if len(parts) > MOST_NAMED else []
            return f"{', '.join([*parts[:MOST_NAMED], *others])} since the plan was made"
    if untold:
        unknown = ", perhaps of ".join(["memory that the driver tells of no process", *nameless])
        return f"{unknown} since the plan was made"
    return "nobody is seen to hold more than the plan counts"


async def _strangers(reading: Reading, ctx: RunContext, gpus: Collection[int]) -> Sequence[GpuProcess]:
    ours = await managed_pids(ctx.machine)
    return [p for p in reading[1] if p.gpu in gpus and p.pid not in ours]


def _grown(strangers: Sequence[GpuProcess], ctx: RunContext, least_mb: int) -> Iterator[str]:
    """Those that are new, and those that hold more than `least_mb` more than when the plan was made."""
    had_mb = {(p.pid, p.gpu): p.vram_mb or 0 for p in ctx.snapshot.processes}
    for process in strangers:
        before_mb, now_mb = had_mb.get((process.pid, process.gpu)), process.vram_mb or 0
        if now_mb > (0 if before_mb is None else before_mb + least_mb):
            yield _process(process)


def _process(process: GpuProcess) -> str:
    return f"process {process.name} (pid {process.pid}) with {process.vram_mb or '?'} MiB"


def _nobodys(mb_by_gpu: Mapping[int, int], least_mb: int) -> Iterator[str]:
    return (f"unattributed {mb} MiB on GPU {gpu}" for gpu, mb in sorted(mb_by_gpu.items()) if mb > least_mb)


async def _more_mb(reading: Reading, ctx: RunContext, gpus: Collection[int]) -> Mapping[str, int]:
    """By how many MiB each service is told to hold more on `gpus` than the plan counts for it."""
    pids = await pids_of(ctx.machine, *ctx.machine.store.handles())
    counted = {s: _counted_mb(ctx, s) for s in pids}
    held = {s: told_by(own, reading[1]).mb for s, own in pids.items()}
    return {s: sum(max(0, held[s].get(g, 0) - counted[s].get(g, 0)) for g in gpus) for s in pids}


def _counted_mb(ctx: RunContext, service: str) -> Mapping[int, int]:
    """The most that `service` may hold while the plan goes on, by GPU: what it held, will hold, and takes meanwhile."""
    had_mb = ctx.snapshot.reading(service).vram_mb
    counts = [had_mb]
    counts += [mb for row in ctx.plan.services if row.id == service for mb in (row.before_mb, row.after_mb)]
    takes = [step.takes_mb for step in ctx.running.values() if step.service == service]
    counts += [{gpu: had_mb.get(gpu, 0) + mb for gpu, mb in taken_mb.items()} for taken_mb in takes]
    return {gpu: max(mb.get(gpu, 0) for mb in counts) for mb in counts for gpu in mb}
