"""What can be known to go wrong before the first stop: refuse then, with nothing changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from gpumod.domain.errors import MachineLacks, UnknownName, UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, Action
from gpumod.engine.explain import is_known, port_taken
from gpumod.engine.machine import HOSTED, Machine
from gpumod.engine.planning import Planned
from gpumod.engine.starting import allocate, gpu_env
from gpumod.engine.suiting import ask_host, launch_of
from gpumod.engine.variables import check_secrets
from gpumod.ports import Launch, Prepares
from gpumod.ports.units import CanBeAway, NeedsLeave, StartsHere

Starts = Sequence[tuple[Handle, Launch]]
"""What a plan starts: who keeps it, and how it is launched."""


async def launches(machine: Machine, planned: Planned) -> Starts:
    """How everything that the plan starts is launched. Raises UsageError for what cannot be, as it is defined."""
    starts: list[tuple[Handle, Launch]] = []
    for step in planned.plan.steps:
        service = planned.services.get(step.service)
        if step.action is not Action.START or service is None or service.host:
            continue
        driver = machine.driver(service)
        try:
            driver.check(service)
            allocation = allocate(machine, planned.snapshot, service, step.placed_on)
            launch = await launch_of(machine, service, allocation)
        except ValueError as error:
            raise bad_service(service, error) from error
        name, at = machine.supervisor_name(service), planned.snapshot.at
        await gpu_env(machine, launch, allocation.visible, name)
        starts.append((Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=at), launch))
    return starts


async def preflight(machine: Machine, planned: Planned, starts: Starts) -> None:
    """Raise the first reason why a step of the plan cannot succeed: options, program, port, disk, rights."""
    check_disk(machine)
    for step in planned.plan.steps:
        if step.action is Action.START and (service := planned.services[step.service]).host:
            await check_host(machine, service, planned.services)
    check_reach(machine, planned)
    for handle, launch in starts:
        await asyncio.to_thread(machine.supervisor(handle.supervisor).check, handle, launch)  # it may ask a program
        check_secrets(machine, handle.launched)
    await check_outlives(machine, planned, starts)
    check_ports(machine, starts, planned.snapshot)
    await check_leave(machine, planned, starts)


@asynccontextmanager
async def prepared(machine: Machine, starts: Starts) -> AsyncIterator[None]:
    """Supervisors that want to be are prepared for `starts`."""
    async with AsyncExitStack() as stack:
        for name in sorted({handle.supervisor for handle, _ in starts}):
            supervisor = machine.supervisor(name)
            if isinstance(supervisor, Prepares):
                await stack.enter_async_context(supervisor.prepared([s for s in starts if s[0].supervisor == name]))
        yield


def check_disk(machine: Machine) -> None:
    """Refuse where the home is read-only or its disk nearly full: a change without a journal is worse than none."""
    machine.store.check_writable()
    free_mb = machine.local.free_disk_mb(machine.home)
    if free_mb < machine.settings.min_free_disk_mb:
        raise MachineLacks(
            "disk-full",
            f"the disk of {machine.home} is nearly full",
            why=f"{free_mb} MiB are left; a change needs {machine.settings.min_free_disk_mb} for its journal and logs",
            hint="free some space, or lower the setting min_free_disk_mb",
        )


def check_reach(machine: Machine, planned: Planned) -> None:
    """Refuse where what keeps a service of the plan cannot be asked: a second copy would be worse than no change."""
    handles = machine.store.handles()
    touched = {step.service for step in planned.plan.steps}
    for name in sorted({handle.supervisor for handle in handles.values() if handle.service in touched} - {HOSTED}):
        supervisor = machine.supervisor(name)
        if isinstance(supervisor, CanBeAway):
            supervisor.reach()


async def check_leave(machine: Machine, planned: Planned, starts: Starts) -> None:
    """Refuse where whoever asks may not start or stop what the plan does: at its turn that would be known too late."""
    asked = [handle for handle, _ in starts] + _stopped(machine, planned)
    for name in sorted({handle.supervisor for handle in asked}):
        supervisor = machine.supervisor(name)
        if isinstance(supervisor, NeedsLeave):
            await supervisor.may([handle for handle in asked if handle.supervisor == name])


async def check_outlives(machine: Machine, planned: Planned, starts: Starts) -> None:
    """Refuse where a start would end with whoever asks. What is stopped to make room for a command of theirs counts as
    well: it is started again when that is over."""
    handles = [handle for handle, _ in starts]
    if planned.holding is not None and planned.holding.pid is not None:
        handles += _stopped(machine, planned)
    for handle in handles:
        supervisor = machine.supervisor(handle.supervisor)
        if isinstance(supervisor, StartsHere):
            await asyncio.to_thread(supervisor.outlives, handle.service)  # it may ask systemd


def _stopped(machine: Machine, planned: Planned) -> list[Handle]:
    """Who is kept by a supervisor, and stopped by the plan."""
    stopped = {step.service for step in planned.plan.steps if step.action is Action.STOP}
    handles = machine.store.handles().values()
    return [handle for handle in handles if handle.service in stopped and handle.supervisor != HOSTED]


def check_ports(machine: Machine, starts: Starts, snapshot: HostSnapshot) -> None:
    """Refuse when a stranger has a port of a service that is to start; it is named and left alone."""
    ours = {r.launched.port for r in snapshot.services.values() if r.launched and r.state not in GONE}
    wanted = {port: handle.launched for handle, launch in starts for port in (*launch.ports, handle.launched.port or 0)}
    users = machine.local.port_users(wanted.keys() - ours - {0})
    for port in sorted(users):
        user, why = users[port], "that is not one of this home's services"
        if is_known(machine, wanted[port], user):
            why = f"{user.service} listens there beside its own port"
        elif user.home_id == machine.home_id:
            why = "gpumod started it, and does not know it any more: `gpumod doctor` tells how to end it"
        raise port_taken(machine, wanted[port], port, user, why)


async def check_host(machine: Machine, service: Service, services: Mapping[str, Service]) -> None:
    host = services.get(service.host or "")
    if host is None:
        raise UnknownName("unknown-service", f"{service.id} lives in {service.host!r}, which is not defined")
    for one in (host, service):
        try:
            machine.driver(one).check(one)
        except ValueError as error:
            raise bad_service(one, error) from error
    if not machine.driver(host).capabilities(host).hosts_members:
        raise UsageError("not-a-host", f"{host.id} cannot host {service.id}", why="its driver hosts no members")
    try:
        await ask_host(machine, service, host)
    except ValueError as error:
        raise bad_service(service, error) from error


def bad_service(service: Service, error: ValueError) -> UsageError:
    return UsageError(
        "bad-service",
        f"{service.id} cannot be started as it is defined",
        why=str(error),
        hint=f"gpumod service edit {service.id}",
    )
