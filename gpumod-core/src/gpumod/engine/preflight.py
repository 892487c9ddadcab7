"""What can be known to go wrong before the first stop: refuse then, with nothing changed."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.errors import Failed, MachineLacks, UnknownName, UsageError
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Plan
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
        allocation = machine.allocation(service, step.placed_on, footprints[service.id].vram_mb, snapshot.gpus, {})
        try:
            machine.driver(service).check(service)
            launch = machine.driver(service).launch(service, allocation, machine.settings)
        except ValueError as error:
            raise UsageError(
                "bad-service",
                f"{service.id} cannot be started as it is defined",
                why=str(error),
                hint=f"gpumod service edit {service.id}",
            ) from error
        machine.supervisor(machine.supervisor_name(service))
        if machine.local.find_program(launch.argv[0]) is None:
            raise MachineLacks(
                "missing-binary",
                f"{service.id} needs the program {launch.argv[0]!r}, which is not there",
                why="it was looked for on PATH and in the setting bin_path",
                hint=f"install it, or name it: gpumod service edit {service.id} --set ..., gpumod settings list",
            )
        if launch.cwd is not None and not machine.local.is_folder(launch.cwd):
            raise MachineLacks(
                "missing-folder",
                f"{service.id} is to run in {launch.cwd}, which is no folder",
                why="its option cwd names it",
                hint=f"make it, or name another: gpumod service edit {service.id} --set cwd=FOLDER",
            )
        check_ports(machine, service, snapshot)


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


def check_ports(machine: Machine, service: Service, snapshot: HostSnapshot) -> None:
    """Refuse when a stranger listens on the service's port; it is named and left alone."""
    if service.port is None:
        return
    user = machine.local.port_user(service.port)
    if user is None:
        return
    alive = [r.launched for r in snapshot.services.values() if r.launched and r.state not in GONE]
    ours = {launched.port for launched in alive if not launched.host}
    if service.port in ours:
        return
    who = f"{user.name} (pid {user.pid})" if user.pid else "another process"
    raise Failed(
        "port-taken",
        f"port {service.port} of {service.id} is taken by {who}",
        why="that process is not one of gpumod's services",
        hint=f"end it, or give the service another port: gpumod service edit {service.id} --port N",
        port=service.port,
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
