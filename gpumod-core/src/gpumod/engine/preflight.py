"""What can be known to go wrong before the first stop: refuse then, with nothing changed."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.errors import Failed, MachineLacks, UnknownName, UsageError
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Plan
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, Action
from gpumod.engine.machine import Machine


def preflight(
    machine: Machine,
    plan: Plan,
    services: Mapping[str, Service],
    footprints: Mapping[str, Footprint],
    snapshot: HostSnapshot,
) -> None:
    """Raise the first reason why a start of `plan` cannot succeed: driver, options, program, port, disk."""
    check_disk(machine)
    for step in plan.steps:
        if step.action is not Action.START:
            continue
        service = services[step.service]
        if service.host:
            check_host(machine, service, services)
            continue
        try:
            machine.driver(service).check(service)
            allocation = machine.allocation(service, step.placed_on, footprints[service.id].vram_mb, snapshot.gpus, {})
            launch = machine.driver(service).launch(service, allocation, machine.settings)
        except ValueError as error:
            raise UsageError(
                "bad-service",
                f"{service.id} cannot be started as it is defined",
                why=str(error),
                hint=f"gpumod service edit {service.id}",
            ) from error
        machine.probe.child_env(allocation.visible)
        name = machine.supervisor_name(service)
        handle = Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=snapshot.at)
        machine.supervisor(name).check(handle, launch)
        for port in sorted({*launch.ports, *([service.port] if service.port else [])}):
            check_port(machine, service, port, snapshot)


def check_disk(machine: Machine) -> None:
    """Refuse where the home is read-only or its disk nearly full: a change without a journal is worse than none."""
    machine.store.check_writable()
    free_mb = machine.local.free_disk_mb(machine.home)
    if free_mb < machine.settings.min_free_disk_mb:
        raise MachineLacks(
            "disk-full",
            f"the disk of {machine.home} has {free_mb} MiB left",
            why=f"a change needs {machine.settings.min_free_disk_mb} MiB for its journal and logs",
            hint="free some space, or lower the setting min_free_disk_mb",
        )


def check_port(machine: Machine, service: Service, port: int, snapshot: HostSnapshot) -> None:
    """Refuse when a stranger has a port of the service; it is named and left alone."""
    user = machine.local.port_user(port)
    if user is None:
        return
    ours = {r.launched.port for r in snapshot.services.values() if r.launched and r.state not in GONE}
    if port in ours:
        return
    who = f"{user.name} (pid {user.pid})" if user.pid else user.name or "another process"
    raise Failed(
        "port-taken",
        f"port {port} of {service.id} is taken by {who}",
        why="that is not one of gpumod's services",
        hint=f"end it, or give the service another port: gpumod service edit {service.id} --port N",
        port=port,
        pid=user.pid,
    )


def check_host(machine: Machine, service: Service, services: Mapping[str, Service]) -> None:
    host = services.get(service.host or "")
    if host is None:
        raise UnknownName("unknown-service", f"{service.id} lives in {service.host!r}, which is not defined")
    try:
        machine.driver(service).check(service)
        if not machine.driver(host).capabilities(host).hosts_members:
            raise UsageError("not-a-host", f"{host.id} cannot host {service.id}", why="its driver hosts no members")
    except ValueError as error:
        raise UsageError("bad-service", f"{service.id} cannot be started as it is defined", why=str(error)) from error
