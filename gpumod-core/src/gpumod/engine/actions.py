"""What each kind of step does: act, wait until it is really so, and say what was measured."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gpumod.domain.errors import Failed, GpumodError
from gpumod.domain.machine import GpuReading
from gpumod.domain.plan import Step
from gpumod.domain.run import STOPPED_INSTEAD, Event, Handle
from gpumod.domain.service import Service
from gpumod.domain.states import Action, State
from gpumod.engine.context import RunContext
from gpumod.engine.device import Held, leave_to_host
from gpumod.engine.explain import explained
from gpumod.engine.hosted import ends_with_host, start_member, stop_member
from gpumod.engine.loading import loading
from gpumod.engine.machine import HOSTED, Machine
from gpumod.engine.measuring import record, served, settled_early, settled_late
from gpumod.engine.memory import held, wait_arrived, wait_freed, wait_released, wait_settled
from gpumod.engine.patience import wake_patience_s, within
from gpumod.engine.peak import watching
from gpumod.engine.starting import start_process
from gpumod.engine.verify import verify
from gpumod.ports import Launch


async def perform(ctx: RunContext, step: Step) -> str:
    """Do one step. Returns a remark, or "". Raises GpumodError when it did not become so."""
    return await ACTIONS[step.action](ctx, step)


async def start(ctx: RunContext, step: Step) -> str:
    """Start a service: done when it answers healthy and its memory has arrived.

    A start that runs out of memory although the device has the room (a neighbour gave it back a moment too late) is
    tried once more.
    """
    service = ctx.services[step.service]
    began = ctx.machine.clock.monotonic()
    remark = ""
    try:
        now, peak_mb, fetched = await _started(ctx, step, service)
    except Failed as error:
        if error.code != "out-of-memory" or not await _has_room_again(ctx, step):
            raise
        ctx.waiting(step, f"{service.id} once more: it ran out of memory, and there is room now")
        remark = "it ran out of memory once, and started at the second try"
        now, peak_mb, fetched = await _started(ctx, step, service)
    seconds = math.nan if fetched else ctx.machine.clock.monotonic() - began
    keep(ctx, service.id, "measured", now)
    record(ctx, service, start_s=seconds, settled_mb=settled_early(ctx, service, now), peak_mb=peak_mb)
    return remark


async def _started(ctx: RunContext, step: Step, service: Service) -> tuple[Held, float, bool]:
    """What it holds when it is ready, the most MiB that it was seen to hold until then (see :class:`Peak`), and whether
    it fetched something first."""
    async with watching(ctx, service.id) as peak, loading(ctx, step, service) as load:
        if service.host:
            await start_member(ctx, step, service, load)
        else:
            await start_process(ctx, step, service, load.clock)
        now = await wait_arrived(ctx, step)
    most_mb = max(peak.mb, now.total_mb) if now.known and not math.isnan(peak.mb) else math.nan
    return now, most_mb, load.fetched


async def _has_room_again(ctx: RunContext, step: Step) -> bool:
    """Clear away a service that ran out of memory; True when the device then has what it takes."""
    try:
        await stop(ctx, step.model_copy(update={"action": Action.STOP}))
    except GpumodError:
        return False
    await wait_settled(ctx.machine, ctx.unattributed.known_mb)  # the dead one's own memory comes back a little later
    gpus, _ = await ctx.machine.read_gpus()
    return all(gpu.free_mb >= step.takes_mb.get(gpu.index, 0) for gpu in gpus)


async def stop(ctx: RunContext, step: Step, also: frozenset[int] = frozenset()) -> str:
    """Stop a service: done when no process of it (nor of `also`) is left and its memory is back. Idempotent."""
    machine = ctx.machine
    handles = machine.store.handles()
    handle = handles.get(step.service)
    if handle is None:
        return "it was stopped already"
    left = ctx.left_to_host.get(step.service, frozenset())
    before = await held(ctx, step.service, also | left)
    was_awake = ctx.snapshot.reading(handle.service).state is State.RUNNING and step.action is Action.STOP
    # what its members left is not its own
    grown = await settled_late(ctx, handle, before) if was_awake and not left else math.nan
    began = machine.clock.monotonic()
    told = ""
    if handle.supervisor == HOSTED:
        told = await stop_member(ctx, handle, handles)
    else:
        await machine.supervisor(handle.supervisor).stop(handle, launch_again(machine, handle, ctx.snapshot.gpus))
    ctx.device_mb.pop(step.service, None)
    remark = ""
    try:
        remark = "" if told else await wait_released(ctx, step, before, began)
    except Failed as error:
        told = ends_with_host(ctx, handle, error)
    if told and (host := handle.launched.host):
        leave_to_host(ctx, host, before)
    machine.store.delete_handle(handle.service, event=event(ctx, "stopped", handle.service))
    if before.total_mb and not told:
        record(ctx, handle.launched, stop_s=machine.clock.monotonic() - began, settled_mb=grown)
    return told or remark


async def sleep(ctx: RunContext, step: Step) -> str:
    """Put a service to sleep. Where that frees nothing, it is stopped instead, and the step says so."""
    machine = ctx.machine
    service, port = awake(ctx, step)
    strategy = machine.strategy(service)
    if strategy is None:
        return await stop(ctx, step.model_copy(update={"action": Action.STOP}))
    before = await held(ctx, step.service)
    grown = await settled_late(ctx, machine.store.handles()[step.service], before)
    began = machine.clock.monotonic()
    async with within(machine.settings.driver_timeout_s, service, "sleep"):
        await strategy.sleep(service, port, machine.http, machine.clock)
    seconds = machine.clock.monotonic() - began
    after = await wait_freed(ctx, step, before)
    if after is None:
        now = await held(ctx, step.service, before.pids)
        level = str(service.sleep_level)
        await stop(ctx, step.model_copy(update={"action": Action.STOP}), before.pids)
        machine.store.add_event(event(ctx, STOPPED_INSTEAD, step.service, level=level))
        ctx.stopped_instead.add(step.service)
        kept = f"{now.total_mb} MiB still held{now.said}"
        return f"sleeping at {level} freed nothing ({kept}): it was stopped instead"
    keep(ctx, step.service, "slept", after)
    remark = await wait_released(ctx, step, before, began)
    asleep_mb = float(after.total_mb) if after.known else math.nan
    record(ctx, service, sleep_s=seconds, asleep_mb=asleep_mb, settled_mb=grown)
    return remark


async def wake(ctx: RunContext, step: Step) -> str:
    """Wake a service: done when its runtime says so, it is healthy, and its memory has arrived."""
    machine = ctx.machine
    service, port = awake(ctx, step)
    strategy = machine.strategy(service)
    if strategy is None:
        return await start(ctx, step.model_copy(update={"action": Action.START}))
    began = machine.clock.monotonic()
    bounded = service.model_copy(update={"startup_timeout": ctx.timeout_s or service.startup_timeout})
    patience_s = wake_patience_s(machine, service, ctx.timeout_s)
    async with explained(machine, service, owner(machine, service), "wake"), within(patience_s, service, "wake"):
        await strategy.wake(bounded, port, machine.http, machine.clock)
    now = await wait_arrived(ctx, step)
    seconds = machine.clock.monotonic() - began
    keep(ctx, step.service, "woken", now, await served(machine, service, port))
    record(ctx, service, wake_s=seconds, settled_mb=settled_early(ctx, service, now))
    return ""


ACTIONS: Mapping[Action, Callable[[RunContext, Step], Awaitable[str]]] = {
    Action.START: start,
    Action.STOP: stop,
    Action.SLEEP: sleep,
    Action.WAKE: wake,
    Action.VERIFY: verify,
}


def awake(ctx: RunContext, step: Step) -> tuple[Service, int]:
    """The definition that the service of `step` was started with, and the port where it answers."""
    handles = ctx.machine.store.handles()
    handle = handles.get(step.service)
    port = ctx.machine.port(handle.launched, ctx.services, handles) if handle else None
    if handle is None or port is None:
        raise Failed("not-running", f"{step.service} is not running", why=f"it was to be {step.action} just now")
    return handle.launched, port


def owner(machine: Machine, service: Service) -> Handle:
    """The handle whose process `service` is part of: its host's, or its own."""
    return machine.store.handles()[service.host or service.id]


def launch_again(machine: Machine, handle: Handle, gpus: Sequence[GpuReading]) -> Launch:
    """How the service was launched, for its stop signal and time-out; plain ones when its driver is gone or breaks."""
    try:
        allocation = machine.allocation(handle.launched, handle.gpus, 0, gpus, {})
        return machine.launch(handle.launched, allocation, handle.supervisor)
    except Exception:  # noqa: BLE001 - whatever a stranger's driver does, its service can be stopped
        return Launch(argv=(handle.service,))


def keep(ctx: RunContext, service: str, kind: str, now: Held, has_served: float | None = None) -> None:
    """Note what a service holds by the device's difference, where that is all that is known, and of one that was woken
    what it `has_served` by then; `kind` is the event."""
    by_device = {} if now.known else {gpu: mb for gpu, mb in now.mb.items() if mb}
    ctx.device_mb.pop(service, None)
    if by_device:
        ctx.device_mb[service] = by_device
    handle = ctx.machine.store.handles()[service]
    if kind == "measured" and by_device == handle.device_mb:
        return  # nothing is to be noted: how it started is journalled already
    by_memory = kind == "slept" and ctx.machine.driver(handle.launched).capabilities(handle.launched).loads_by_use
    noted: dict[str, object] = {"device_mb": by_device, "slept_mb": now.total_mb if by_memory else None}
    if kind == "woken":
        noted["served"] = has_served
    ctx.machine.store.put_handle(handle.model_copy(update=noted), event=event(ctx, kind, service))


def event(ctx: RunContext, kind: str, service: str, **noted: str) -> Event:
    return Event(at=ctx.machine.clock.now(), kind=kind, subject=service, data={"run": ctx.run_id, **noted})
