"""Units and containers that are left: their service is kept by another supervisor now, or is no longer defined."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from gpumod.domain.errors import Busy, GpumodError, MachineLacks
from gpumod.engine.machine import Machine
from gpumod.ports import Supervisor
from gpumod.ports.units import Left, TellsLeft, WritesUnits


class Leftover(NamedTuple):
    """What the supervisor called `keeper` made for `service`, and nothing will start; `hint` removes it by hand."""

    keeper: str
    service: str
    what: str
    hint: str

    @property
    def message(self) -> str:
        return f"the {self.what} is left: {self.keeper} does not keep {self.service} any more"


def _made(name: str, supervisor: Supervisor) -> Mapping[str, Left]:
    """What the supervisor called `name` made and is still there, by service. Blocking."""
    if isinstance(supervisor, WritesUnits):
        systemctl = "systemctl --user" if name == "systemd-user" else "systemctl"
        return {
            service: Left(
                what=f"unit {path}",
                end=f"{systemctl} stop {path.name}, if it is up; then rm {path}, as whoever it belongs to",
            )
            for service, path in supervisor.units().items()
        }
    return supervisor.left() if isinstance(supervisor, TellsLeft) else {}


def leftovers(machine: Machine) -> list[Leftover]:
    """What is left of this home. A service that is up under a supervisor is kept by it, whatever is defined now; and
    what is defined in a row that cannot be read, or has a driver that is not there, is not judged. Blocking."""
    store = machine.store
    services, handles, said = store.services(), store.handles(), keepers(machine)
    unknown = {problem.details["row"] for problem in store.problems()} | services.keys() - said.keys()
    found = []
    for name in machine.plugins.supervisors.names():
        with suppress(GpumodError):
            for service, made in _made(name, machine.supervisor(name)).items():
                kept_by = {said.get(service), handles[service].supervisor if service in handles else None}
                if name not in kept_by and service not in unknown:
                    found.append(Leftover(name, service, made.what, made.end))
    return found


async def sweep(machine: Machine) -> None:
    """Remove what is left and is not up. Called under the lock. What cannot be removed stays, and `doctor` tells it."""
    if machine.store.open_run() is not None:  # its way back may still need them
        return
    for left in await asyncio.to_thread(leftovers, machine):
        supervisor = machine.supervisor(left.keeper)
        with suppress(GpumodError):
            if isinstance(supervisor, WritesUnits):
                await supervisor.withdraw(left.service)
            elif isinstance(supervisor, TellsLeft):
                await supervisor.forget(left.service)


async def sweep_now(machine: Machine, command: str) -> None:
    """Remove what is left, unless somebody is at work on the machine: then it is left to the next change."""
    with ExitStack() as held, suppress(Busy):
        with suppress(MachineLacks):  # without a GPU nobody can be at work
            held.enter_context(machine.local.lock(machine.probe.machine_dir(), command, machine.home))
        await sweep(machine)


def keepers(machine: Machine) -> Mapping[str, str]:
    """Who keeps each service by its definition; those aside whose driver is not there, which may decide it."""
    services, drivers = machine.store.services(), machine.plugins.drivers
    return {s: machine.supervisor_name(service) for s, service in services.items() if service.driver in drivers}


def is_moving(machine: Machine) -> bool:
    """True when a service is kept by another supervisor than its definition says: its end leaves something. One whose
    definition does not tell, for want of its driver, is none."""
    said, defined = keepers(machine), machine.store.services()
    return any(
        handle.supervisor != said.get(handle.service) and (handle.service in said or handle.service not in defined)
        for handle in machine.store.handles().values()
    )
