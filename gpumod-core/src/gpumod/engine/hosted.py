"""Members of a host: start is load, stop is unload and out of the host's configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.plan import Step
from gpumod.domain.run import Event, Handle
from gpumod.domain.service import Service
from gpumod.domain.states import Action
from gpumod.engine.asking import ask_members
from gpumod.engine.context import RunContext
from gpumod.engine.explain import explained
from gpumod.engine.footprints import footprint
from gpumod.engine.loading import Loading
from gpumod.engine.machine import HOSTED
from gpumod.engine.patience import GRACE_S, within
from gpumod.engine.starting import allocate, new_handle
from gpumod.ports import Allocation, HostsMembers, MemberReading


async def start_member(ctx: RunContext, step: Step, service: Service, load: Loading) -> None:
    """Write the member into its host's configuration and load it, by the clock of `load`. The handle is journalled
    first."""
    machine = ctx.machine
    host, port, driver = _host(ctx, machine.store.handles(), service)
    handle = new_handle(ctx, step, service, HOSTED)
    data = {"run": ctx.run_id, "host": host.service}
    machine.store.put_handle(handle, event=Event(at=handle.started_at, kind="starting", subject=service.id, data=data))
    bounded = service.model_copy(update={"startup_timeout": ctx.timeout_s or service.startup_timeout})
    async with explained(machine, service, host, "start"):
        async with machine.host_lock(host.service):
            seat = allocate(machine, ctx.snapshot, service, step.placed_on)
            _refuse_unseen(host, service, seat)
            await _configure(ctx, host, driver, port, {service.id: seat})
        ctx.waiting(step, f"{host.service} to load it")
        async with within(bounded.startup_timeout + GRACE_S, service, "load") as load.limit:
            await driver.load(bounded, port, machine.http, load.clock)
    loaded = Event(at=machine.clock.now(), kind="ready", subject=service.id, data=data)
    machine.store.put_handle(handle, event=loaded)


def _refuse_unseen(host: Handle, member: Service, seat: Allocation) -> None:
    """Raise Failed `card-not-seen` for a member on a GPU that was not used when its host was started."""
    unseen = [share.index for share in seat.gpus if share.index not in seat.visible]
    if unseen:
        raise Failed(
            "card-not-seen",
            f"{host.service} does not see GPU {unseen[0]}, which is meant for {member.id}",
            why=f"it was started when only {', '.join(map(str, seat.visible)) or 'none'} could be used",
            hint=f"restart {host.service}: gpumod service restart {host.service}",
            service=member.id,
        )


async def stop_member(ctx: RunContext, handle: Handle, handles: Mapping[str, Handle]) -> str:
    """Unload a member and take it out of its host's configuration. A host that is gone has no members.

    Where the host stops too, a host that does not answer is no hindrance: its end is the end of its members.
    Returns a remark, or "".
    """
    machine = ctx.machine
    if handle.launched.host not in handles:
        return ""
    host, port, driver = _host(ctx, handles, handle.launched)
    status = (await machine.supervisor(host.supervisor).status([host]))[host.service]
    if not status.alive:
        return ""
    try:
        async with within(machine.settings.driver_timeout_s, handle.launched, "unload"):
            await driver.unload(handle.launched, port, machine.http, machine.clock)
        async with machine.host_lock(host.service):
            await _configure(ctx, host, driver, port, {}, without=handle.service)
    except Exception as error:  # noqa: BLE001 - refused, timed out, or a driver that breaks: all the same where it ends
        return ends_with_host(ctx, handle, error)
    return ""


def ends_with_host(ctx: RunContext, handle: Handle, error: Exception) -> str:
    """The remark on a member that could not be stopped, and ends with its host. Raises `error` where that stays."""
    host = handle.launched.host
    if host is None or host not in {step.service for step in ctx.plan.steps if step.action is Action.STOP}:
        raise error
    return f"{host} did not let go of it ({error}); it ends with {host}"


async def _configure(
    ctx: RunContext,
    host: Handle,
    driver: HostsMembers,
    port: int,
    placed: Mapping[str, Allocation],
    *,
    without: str = "",
) -> None:
    """Rewrite the host's file with those of its members that we know, and make the host read it.

    `placed` are the allocations of members that are just being started; the others keep theirs. A handle alone does
    not make a member: it may be left over from a host that died, or belong to one that is just leaving.
    """
    machine = ctx.machine
    has = await ask_members(machine, host, ())
    if has is None:
        raise Failed(
            "host-not-answering",
            f"{host.service} does not tell its members",
            hint=f"see `gpumod service logs {host.service}`; stop it, or restart it",
            service=host.service,
        )
    members = [
        (h.launched, placed.get(h.service) or _allocation(ctx, h))
        for h in machine.store.handles().values()
        if h.launched.host == host.service and h.service != without and (h.service in placed or _in(has, h.service))
    ]
    file = driver.members_file(host.launched, members, machine.settings)
    if file is not None:
        await asyncio.to_thread(machine.supervisor(host.supervisor).write_files, host.service, [file])
    async with within(machine.settings.driver_timeout_s, host.launched, "reload"):
        await driver.reload(host.launched, port, machine.http, machine.clock)


def _in(has: Mapping[str, MemberReading], member: str) -> bool:
    return member in has and has[member].configured


def _allocation(ctx: RunContext, handle: Handle) -> Allocation:
    vram_mb = footprint(ctx.machine, handle.launched, ctx.snapshot.gpus, placed_on=handle.gpus).vram_mb
    return ctx.machine.allocation(handle.launched, handle.gpus, vram_mb, ctx.snapshot.gpus, {})


def _host(ctx: RunContext, handles: Mapping[str, Handle], member: Service) -> tuple[Handle, int, HostsMembers]:
    host = handles.get(member.host or "")
    if host is None:
        raise Failed("host-not-running", f"{member.host}, the host of {member.id}, is not running", service=member.id)
    driver = ctx.machine.driver(host.launched)
    if not isinstance(driver, HostsMembers) or host.launched.port is None:
        raise UsageError("not-a-host", f"{host.service} cannot host {member.id}", why=f"its driver is {driver.name}")
    return host, host.launched.port, driver
