"""Units that are left: their service is kept by another supervisor now, or is no longer defined."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from gpumod.domain.errors import Busy, GpumodError, MachineLacks
from gpumod.engine.machine import Machine
from gpumod.ports.units import WritesUnits


class Leftover(NamedTuple):
    """The unit at `path`, which the supervisor called `keeper` wrote for `service`, and which nothing will start."""

    keeper: str
    service: str
    path: Path

    @property
    def message(self) -> str:
        return f"the unit {self.path} is left: {self.keeper} does not keep {self.service} any more"

    @property
    def hint(self) -> str:
        systemctl = "systemctl --user" if self.keeper == "systemd-user" else "systemctl"
        return f"{systemctl} stop {self.path.name}, if it is up; then rm {self.path}, as whoever it belongs to"


def leftovers(machine: Machine) -> list[Leftover]:
    """What is left of this home. A service that is up under a supervisor is kept by it, whatever is defined now; and
    what is defined in a row that cannot be read is not judged."""
    store = machine.store
    services, handles = store.services(), store.handles()
    unreadable = {problem.details["row"] for problem in store.problems()}
    found = []
    for name in machine.plugins.supervisors.names():
        with suppress(GpumodError):
            supervisor = machine.supervisor(name)
            for service, path in supervisor.units().items() if isinstance(supervisor, WritesUnits) else ():
                keepers = {machine.supervisor_name(services[service])} if service in services else set()
                keepers |= {handles[service].supervisor} if service in handles else set()
                if name not in keepers and service not in unreadable:
                    found.append(Leftover(name, service, path))
    return found


async def sweep(machine: Machine) -> None:
    """Remove what is left and is not up. Called under the lock. What cannot be removed stays, and `doctor` tells it."""
    if machine.store.open_run() is not None:  # its way back may still need them
        return
    for left in leftovers(machine):
        supervisor = machine.supervisor(left.keeper)
        if isinstance(supervisor, WritesUnits):
            with suppress(GpumodError):
                await supervisor.withdraw(left.service)


async def sweep_now(machine: Machine, command: str) -> None:
    """Remove what is left, unless somebody is at work on the machine: then it is left to the next change."""
    with ExitStack() as held, suppress(Busy):
        with suppress(MachineLacks):  # without a GPU nobody can be at work
            held.enter_context(machine.local.lock(machine.probe.machine_dir(), command, machine.home))
        await sweep(machine)


def keepers(machine: Machine) -> Mapping[str, str]:
    """Who keeps each service by its definition."""
    return {s: machine.supervisor_name(service) for s, service in machine.store.services().items()}


def is_moving(machine: Machine) -> bool:
    """True when a service is kept by another supervisor than its definition says: its end leaves something."""
    said = keepers(machine)
    return any(handle.supervisor != said.get(handle.service) for handle in machine.store.handles().values())
