"""Starting a service that has a process of its own, and waiting until it is ready, dead, or too late."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence

from gpumod.domain.errors import Failed
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Step
from gpumod.domain.run import Event, Handle
from gpumod.domain.service import Service
from gpumod.engine.asking import ask
from gpumod.engine.context import RunContext
from gpumod.engine.explain import LOG_LINES, TOLD_LINES, ended_because, fatal_error, fatal_line, port_taken
from gpumod.engine.footprints import footprint
from gpumod.engine.logs import log_of
from gpumod.engine.machine import Machine
from gpumod.engine.suiting import launch_of
from gpumod.plugins.kit import poll
from gpumod.ports import Allocation, Clock, Launch, NoticesEnd, NumbersGpus, ProbeResult

LOOK_AT_PROCESS_S = 0.25
"""A service that says in its log that it cannot start is noticed within this and one poll; so is one that dies, where
its supervisor does not notice that at once."""


def allocate(machine: Machine, snapshot: HostSnapshot, service: Service, placed_on: Sequence[int]) -> Allocation:
    """Where `service` goes, with the budgets of the first snapshot.

    Its share is what it is declared or set to take, not what was measured: else a runtime that is told its share
    (vLLM) would be given a little less at every start.
    """
    foreign = {gpu.index: snapshot.foreign_mb(gpu.index) for gpu in snapshot.gpus}
    vram_mb = footprint(machine, service, snapshot.gpus, placed_on=placed_on).vram_mb
    return machine.allocation(service, placed_on, vram_mb, snapshot.gpus, foreign)


async def gpu_env(machine: Machine, launch: Launch, gpus: Sequence[int], keeper: str) -> Mapping[str, str]:
    """What makes a process of `keeper` see just these GPUs, in words that its program takes. Raises MachineLacks."""
    probe = machine.probe
    if launch.gpus_by_number and machine.inside(keeper) is None and isinstance(probe, NumbersGpus):
        return await asyncio.to_thread(probe.numbered_env, gpus)
    return await asyncio.to_thread(probe.child_env, gpus)


async def service_env(
    machine: Machine, service: Service, allocation: Allocation, launch: Launch, keeper: str
) -> dict[str, str]:
    """What every service is told in its environment, beside what its driver says: its secrets, its GPUs, its share."""
    return {
        **machine.secrets.values(service.id),
        **await gpu_env(machine, launch, allocation.visible, keeper),
        "GPUMOD_SERVICE": service.id,
        "GPUMOD_HOME_ID": machine.home_id,
        "GPUMOD_VRAM_MB": str(allocation.vram_mb),
    }


def new_handle(ctx: RunContext, step: Step, service: Service, supervisor: str) -> Handle:
    return Handle(
        service=service.id,
        supervisor=supervisor,
        nonce=uuid.uuid4().hex,
        launched=service,
        altered=ctx.plan.target.altered.get(service.id, ""),
        gpus=step.placed_on,
        started_at=ctx.machine.clock.now(),
        boot=ctx.machine.boot(),
    )


async def start_process(ctx: RunContext, step: Step, service: Service, clock: Clock) -> None:
    """Spawn and wait until ready, by `clock`. The nonce is journalled before: a crash orphans nothing."""
    machine = ctx.machine
    allocation = allocate(machine, ctx.snapshot, service, step.placed_on)
    name = machine.supervisor_name(service)
    launch = await launch_of(machine, service, allocation, name)
    handle = new_handle(ctx, step, service, name).model_copy(update={"visible": allocation.visible})
    data = {"run": ctx.run_id}
    machine.store.put_handle(handle, event=Event(at=handle.started_at, kind="starting", subject=service.id, data=data))
    env = await service_env(machine, service, allocation, launch, name)
    token = await machine.supervisor(name).start(handle, launch, env)
    handle = handle.model_copy(update={"token": token})
    spawned = Event(at=machine.clock.now(), kind="spawned", subject=service.id, data={**data, **token})
    machine.store.put_handle(handle, event=spawned)
    await wait_ready(ctx, step, handle, clock)


async def wait_ready(ctx: RunContext, step: Step, handle: Handle, clock: Clock) -> None:
    """Wait for the service's own word; a dead process or a fatal log line ends the wait at once."""
    machine, service = ctx.machine, handle.launched
    timeout_s = ctx.timeout_s or service.startup_timeout
    supervisor = machine.supervisor(handle.supervisor)
    ended = asyncio.create_task(supervisor.exited(handle)) if isinstance(supervisor, NoticesEnd) else None
    looked_at = machine.clock.monotonic()
    detail = ""
    ctx.waiting(step, f"{service.id} to answer on port {service.port}" if service.port else f"{service.id} to answer")

    async def ready() -> bool | None:
        nonlocal looked_at, detail
        answer = await ask(machine, service, service.port)
        detail = answer.detail
        now = machine.clock.monotonic()
        is_time = now - looked_at >= LOOK_AT_PROCESS_S or (ended is not None and ended.done())
        if answer.state in ("ready", "failed") or is_time:  # an answer may also come from a stranger on its port
            looked_at = now
            await _look(machine, handle, answer)
        return True if answer.state == "ready" else None

    try:
        if await poll(clock, ready, timeout_s):
            return
    finally:
        if ended is not None:
            ended.cancel()
    answers = "answered" in detail  # the server is there: it is the path that is wrong, not the time
    raise Failed(
        "start-timeout",
        f"{service.id} was not ready within {timeout_s:g} s",
        why=detail or "it does not answer",
        hint=f"is its health path right? gpumod service edit {service.id} --health-endpoint PATH"
        if answers
        else f"see `gpumod service logs {service.id}`; a slow model may need a larger startup_timeout",
        service=service.id,
        log=list(await log_of(machine, handle, TOLD_LINES)),
    )


async def _look(machine: Machine, handle: Handle, answer: ProbeResult) -> None:
    """Raise why the service will never be ready, if its process or its log tells."""
    service, supervisor = handle.launched, machine.supervisor(handle.supervisor)
    status = (await supervisor.status([handle]))[service.id]
    if status.restarts:  # why is told by its log, rather than by what is about to become of it
        raise await ended_because(machine, handle, status.model_copy(update={"detail": ""}))
    if not status.alive:
        raise await ended_because(machine, handle, status)
    if service.port and answer.state != "starting":
        stranger = await asyncio.to_thread(machine.local.stranger_on, service.port, status.pids)
        if stranger is not None:
            raise port_taken(machine, service, service.port, stranger, "it answers there, and was there first")
    if answer.state == "ready":
        return
    lines = await log_of(machine, handle, LOG_LINES)
    fatal = fatal_line(machine, service, lines)
    if fatal:
        raise fatal_error(service, fatal, lines)
    if answer.state == "failed":
        raise Failed("start-failed", f"{service.id} says that it failed", why=answer.detail, service=service.id)
