"""Waiting for memory: that what was let go is really back, and that what was started really took its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gpumod.domain.errors import Failed
from gpumod.domain.machine import GpuReading, untold_mb
from gpumod.domain.plan import Step
from gpumod.domain.states import Action
from gpumod.engine.context import RunContext
from gpumod.engine.culprits import not_released, taken
from gpumod.engine.device import (
    Held,
    coming_mb,
    held_by,
    is_untold,
    more_mb,
    refuse_fault,
    told_by,
)
from gpumod.engine.explain import ended_because
from gpumod.engine.machine import HOSTED, Machine, Reading
from gpumod.engine.pids import managed_pids, pids_of
from gpumod.engine.unattributed import LAG_S, TOLERANCE_MB, Release
from gpumod.plugins.kit import poll

GONE_LOOKS = 3
"""A service that has no process in so many looks on end is gone, and was not just asked at a bad moment."""
ARRIVES_S = 2.0
"""So long what a service takes may take to show, once it answers."""
NO_READING: Reading = ((), ())
ENOUGH, LEAST_MB = 0.2, 256
"""What holds less than the first of what it should, and should hold the second at least (MiB), is not on its GPU."""


async def held(ctx: RunContext, service_id: str, also: frozenset[int] = frozenset()) -> Held:
    """What `service_id` holds on the GPUs now, by its own processes and by `also`: those that it had before."""
    pids = await pids_of(ctx.machine, service_id)
    return held_by(ctx, service_id, pids[service_id] | also, await ctx.machine.read_gpus())


async def wait_released(ctx: RunContext, step: Step, before: Held, began_s: float) -> str:
    """Wait until no process of the service holds GPU memory (a stop) and what it let go (since `began_s`) is back.

    Counters lag 0.3 to 1.5 s after an exit. On timeout the step is done with a note when what is still to come fits
    into what is free; else it fails and names the process, or "unattributed N MiB". What another service left, which
    let go beside this one, is told there. Of a card that is lost nothing can be waited for.
    """
    machine, stops = ctx.machine, step.action is Action.STOP
    release = Release(step.service, before.mb, before.pids if stops else frozenset(), began_s)
    last = NO_READING

    async def back() -> bool | None:
        nonlocal last
        last = await _look(ctx)
        return (release.ended_s is not None and not release.missing_mb) or None

    ctx.waiting(step, "its memory to come back")
    account = ctx.unattributed
    account.releases.append(release)
    try:
        if await poll(machine.clock, back, machine.settings.release_timeout_s):
            lost = [gpu.fault.message for gpu in last[0] if gpu.index in before.mb and gpu.fault]
            return "; ".join(f"{message}: its memory cannot be looked at" for message in lost)
        suspects = {gpu: account.suspects(release, gpu) for gpu in release.missing_mb}
    finally:
        account.releases.remove(release)
    holders = [process for process in last[1] if process.pid in release.pids]
    missing_mb = {gpu: mb for gpu, mb in release.missing_mb.items() if step.service in suspects[gpu]}
    if not holders and not missing_mb:
        return ""
    account.lose(missing_mb)
    others = {other for gpu in missing_mb for other in suspects[gpu]} - {step.service}
    left_by = f" (left by {' or '.join([step.service, *sorted(others)])})" if others else ""
    culprit = await not_released(holders, last, ctx, before.mb, missing_mb)
    ours = told_by(await managed_pids(machine), last[1])
    short = {g: _still_needed_mb(ctx, g, _managed_mb(ctx, ours, g)) - free_mb_of(last[0], g) for g in before.mb}
    if not holders and all(mb <= 0 for mb in short.values()):
        return f"{culprit} did not come back{left_by}"
    hint = "see `gpumod ps` and `nvidia-smi`; the process that holds it may have to be ended by hand"
    if not holders:
        hint = "see `nvidia-smi`; what no known process holds is back when its container or the computer is restarted"
    raise Failed(
        "memory-not-released",
        f"{step.service} let go of its memory, but the GPU did not get it back in "
        f"{machine.settings.release_timeout_s:g} s",
        why=f"{culprit} still in use{left_by}",
        hint=hint,
        service=step.service,
    )


async def wait_freed(ctx: RunContext, step: Step, before: Held) -> Held | None:
    """What a service holds asleep, once it shows (a counter lags); None when it freed nothing worth speaking of.

    A process that it had before counts also where nobody calls it the service's any more (an unloaded member's).
    """
    machine = ctx.machine
    # where the residue is not known, it is counted as all that the service holds; a tenth less shows that it sleeps
    residue_mb = min(ctx.footprints[step.service].asleep_mb, before.total_mb * 0.8)
    enough_mb = (before.total_mb + residue_mb) / 2

    async def freed() -> Held | None:
        pids = (await pids_of(machine, step.service))[step.service] | before.pids
        reading = await machine.read_gpus()
        refuse_fault(reading[0], before.mb)
        now = told_by(pids, reading[1]) if before.known else _kept(ctx, step, before, pids, reading)
        little = before.total_mb <= 256 or now.total_mb <= enough_mb
        return now if little else None

    return await poll(machine.clock, freed, LAG_S)


def _kept(ctx: RunContext, step: Step, before: Held, pids: frozenset[int], reading: Reading) -> Held:
    """What a sleeper keeps, by the device's difference."""
    mb = {}
    for gpu, had_mb in before.mb.items():
        more = more_mb(ctx, reading, gpu, but=step.service) - coming_mb(ctx, reading, gpu)
        mb[gpu] = min(had_mb, max(0, more))
    return Held(mb, pids, known=False)


async def admit(ctx: RunContext, step: Step) -> None:
    """Wait until the device really has what `step` will take, beside what running steps have reserved.

    Raises Failed `memory-taken` that names who holds it, when it does not come in time; on the way back it is tried
    all the same.
    """
    if (ctx.force and not ctx.going_back) or not any(step.takes_mb.values()):
        return
    machine = ctx.machine
    last = NO_READING

    async def room() -> bool | None:
        nonlocal last
        async with ctx.gate:  # between the look and the reservation nobody else may be let in
            last = await _look(ctx)
            refuse_fault(last[0], step.placed_on)
            free_mb = await _unreserved_mb(ctx, last)
            short = {g: mb - free_mb.get(g, 0) for g, mb in step.takes_mb.items() if mb}
            if any(mb > TOLERANCE_MB for mb in short.values()):
                return None
            ctx.running[step.n] = step
            return True

    if await poll(machine.clock, room, machine.settings.release_timeout_s) or ctx.going_back:
        return
    gpus = sorted(step.takes_mb)
    need = ", ".join(f"{mb} MiB on GPU {g}" for g, mb in step.takes_mb.items())
    free_mb = await _unreserved_mb(ctx, last)
    free = ", ".join(f"{free_mb.get(g, 0)} MiB" for g in gpus)
    raise Failed(
        "memory-taken",
        f"there is no room to {step.action} {step.service}: it needs {need}, and {free} is free",
        why=await taken(last, ctx, gpus),
        hint="end what took the memory, or leave a service out; `gpumod ps` shows who holds what",
        service=step.service,
    )


async def wait_settled(machine: Machine, known_mb: Callable[[int], int] = lambda _gpu: 0) -> None:
    """Wait a little while the device still counts memory of processes that have just died: a plan would miss it.

    `known_mb` of a GPU is what nobody waits for there.
    """
    handles = machine.store.handles().values()

    async def settled() -> bool | None:
        gpus, processes = await machine.read_gpus()
        ours = {gpu.index: sum(h.device_mb.get(gpu.index, 0) for h in handles) for gpu in gpus}
        left = (untold_mb(gpu, processes) - ours[gpu.index] - known_mb(gpu.index) for gpu in gpus)
        return all(mb <= TOLERANCE_MB for mb in left) or None

    await poll(machine.clock, settled, LAG_S)


async def wait_arrived(ctx: RunContext, step: Step) -> Held:
    """Wait until the memory of a started or woken service has arrived.

    Raises Failed `cpu-fallback` when it answers healthy but holds next to nothing on its GPU, `died-while-starting`
    when it ended after it had answered, and `gpu-lost` and the like.
    """
    machine = ctx.machine
    expected_mb = ctx.footprints[step.service].vram_mb
    enough_mb = expected_mb * ENOUGH
    gone, hidden = 0, False
    now = by_device = Held({}, frozenset())

    async def arrived() -> bool | None:
        nonlocal now, by_device, gone, hidden
        pids = (await pids_of(machine, step.service))[step.service]
        reading = await _look(ctx)
        refuse_fault(reading[0], step.placed_on)
        now = told_by(pids, reading[1])
        gone = 0 if now.pids else gone + 1
        by_device = _come(ctx, step, now, reading, expected_mb)
        hidden = now.total_mb < enough_mb and _is_hidden(ctx, step)
        if hidden:
            return gone >= GONE_LOOKS or None
        if now.total_mb < enough_mb and any(is_untold(ctx, reading, gpu) for gpu in step.placed_on):
            now = by_device
        return now.total_mb >= enough_mb or gone >= GONE_LOOKS or None

    service = ctx.services[step.service]
    if expected_mb < LEAST_MB or not step.placed_on or machine.driver(service).capabilities(service).loads_by_use:
        await arrived()
        return now
    came = await poll(machine.clock, arrived, ARRIVES_S)
    while not came and hidden:
        came = await poll(machine.clock, arrived, ARRIVES_S)
    if came and now.pids:
        return now
    if now.pids and by_device.total_mb >= enough_mb:  # it has come, and the driver names nobody for it
        return by_device
    if not now.pids:
        if (why := await _ended(machine, step.service)) is not None:
            raise why
        raise Failed(
            "died-while-starting",
            f"{step.service} ended just after it had answered",
            why="no process of it is left",
            hint=f"see `gpumod service logs {step.service}`",
            service=step.service,
        )
    raise Failed(
        "cpu-fallback",
        f"{step.service} answers healthy but holds {now.total_mb} of {expected_mb} MiB on the GPU{now.said}",
        why="it fell back to the CPU, or runs on another GPU",
        hint=f"see `gpumod service logs {step.service}` for a CUDA error, and check the driver",
        service=step.service,
    )


def _is_hidden(ctx: RunContext, step: Step) -> bool:
    """True while others leave the GPU of `step`: they count as holding what they have given back already."""
    leaving = [other.service for other in ctx.running.values() if other.action in (Action.STOP, Action.SLEEP)]
    return any(ctx.device_mb.get(service, {}).get(gpu) for service in leaving for gpu in step.placed_on)


def _come(ctx: RunContext, step: Step, told: Held, reading: Reading, expected_mb: int) -> Held:
    """What came with a start or a wake, by the device's difference. Beside other steps, no more than expected."""
    come = {gpu: max(0, more_mb(ctx, reading, gpu, but=step.service)) for gpu in step.placed_on}
    if len(ctx.running) > 1:
        come = {gpu: min(mb, -(-expected_mb // len(step.placed_on))) for gpu, mb in come.items()}
    return Held(come, told.pids, known=False)


async def _ended(machine: Machine, service: str) -> Failed | None:
    """Why a service with a process of its own is gone, in the words of its log; None where it is not."""
    handle = machine.store.handles().get(service)
    if handle is None or handle.supervisor == HOSTED:
        return None
    status = (await machine.supervisor(handle.supervisor).status([handle]))[service]
    return None if status.alive else await ended_because(machine, handle, status)


async def _look(ctx: RunContext) -> Reading:
    """One reading of the GPUs, with which the run keeps its account of what nobody holds."""
    reading = await ctx.machine.read_gpus()
    seen = [gpu.index for gpu in reading[0] if gpu.fault is None]
    more = {gpu: more_mb(ctx, reading, gpu) for gpu in seen}
    coming = {gpu: coming_mb(ctx, reading, gpu) for gpu in seen}
    ctx.unattributed.see({process.pid for process in reading[1]}, more, coming, ctx.machine.clock.monotonic())
    return reading


async def _unreserved_mb(ctx: RunContext, reading: Reading) -> Mapping[int, int]:
    """Free MiB of each GPU, less what running starts and wakes will still take."""
    gpus, processes = reading
    outstanding = {gpu.index: 0 for gpu in gpus}
    taking = [step for step in ctx.running.values() if any(step.takes_mb.values())]
    pids = await pids_of(ctx.machine, *(step.service for step in taking))
    for step in taking:
        have = told_by(pids[step.service], processes)
        before_mb = {g.index: g.before_mb for g in step.gpus} if step.action is Action.WAKE else {}
        for gpu, mb in step.takes_mb.items():
            residue_mb = ctx.snapshot.reading(step.service).vram_mb.get(gpu, 0) if before_mb.get(gpu) else 0
            outstanding[gpu] = outstanding.get(gpu, 0) + max(0, mb - max(0, have.mb.get(gpu, 0) - residue_mb))
    for gpu, mb in outstanding.items():
        if mb and is_untold(ctx, reading, gpu):  # some of it has come, and nobody is named for it
            outstanding[gpu] -= min(mb, max(0, more_mb(ctx, reading, gpu)))
    return {gpu.index: gpu.free_mb - outstanding[gpu.index] for gpu in gpus}


def _still_needed_mb(ctx: RunContext, gpu: int, managed_mb: int) -> int:
    """Free MiB that the rest of the plan needs on `gpu`: its highest peak from here, less what services hold now."""
    rest = [*ctx.pending.values(), *ctx.running.values()]
    peaks = [g.peak_mb for step in rest if step.takes_mb.get(gpu) for g in step.gpus if g.index == gpu]
    return max(peaks, default=0) - managed_mb


def free_mb_of(gpus: Iterable[GpuReading], index: int) -> int:
    """MiB that the device says are free."""
    return next((gpu.free_mb for gpu in gpus if gpu.index == index), 0)


def _managed_mb(ctx: RunContext, told: Held, gpu: int) -> int:
    return told.mb.get(gpu, 0) + sum(mb.get(gpu, 0) for mb in ctx.device_mb.values())
