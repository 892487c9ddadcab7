"""What is checked: one home on one machine as it is now, and how findings are said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from gpumod.domain.adopted import Manager
from gpumod.domain.errors import GpumodError
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.states import GONE
from gpumod.engine.footprints import footprint, placed_on
from gpumod.engine.machine import Machine
from gpumod.operations.ports import InstallsWatch
from gpumod.operations.results import Check
from gpumod.ports import Launch
from gpumod.ports.checkup import Checkup, LoadedUnit
from gpumod.ports.foreign import Surroundings
from gpumod.ports.units import Stray

MANAGERS: Mapping[str, Manager] = {
    f"{kind}-{manager}": manager for kind in ("systemd", "adopted") for manager in ("user", "system")
}
"""Supervisors that are managers of systemd, and whose."""


@dataclass(frozen=True)
class Kept:
    """A service that is a unit of `manager`, called `name`. `differs` is True for one that runs with another unit than
    gpumod would write now."""

    manager: Manager
    name: str
    differs: bool = False


@dataclass(frozen=True)
class Case:
    """`snapshot` is None where the machine cannot be observed: the part that looks at GPUs tells why.

    `launches` are how services would be started, as far as that can be told, and `hindered` why one cannot be; `kept`
    are those that are units.
    `strays` run for this home, and no handle names them. `watches` are the units that run `gpumod watch`, by
    whose manager they are of. `busy` is who changes the machine now.
    """

    machine: Machine
    computer: Checkup
    around: Surroundings
    services: Mapping[str, Service]
    handles: Mapping[str, Handle]
    snapshot: HostSnapshot | None
    launches: Mapping[str, Launch]
    kept: Mapping[str, Kept]
    hindered: Mapping[str, str] = field(default_factory=dict)
    strays: tuple[Stray, ...] = ()
    watches: Mapping[Manager, InstallsWatch] = field(default_factory=dict)
    busy: str = ""

    @property
    def real(self) -> bool:
        """False for a simulated machine: its GPUs have no driver, and no suspend takes their memory."""
        return self.machine.settings.sim_machine is None

    @property
    def serves(self) -> bool:
        """True for a machine that is meant to serve from boot on."""
        return self.machine.settings.boot_mode is not None or bool(self.watches)

    @cached_property
    def managers(self) -> tuple[Manager, ...]:
        """The systemd managers that keep a service, or would."""
        names = {handle.supervisor for handle in self.handles.values()}
        names |= {self.machine.supervisor_name(service) for service in self.services.values()}
        found = {MANAGERS[name] for name in names if name in MANAGERS}
        found |= set(self.watches)
        return tuple(sorted(found))

    @cached_property
    def footprints(self) -> Mapping[str, Footprint]:
        """What each service takes."""
        gpus = self.snapshot.gpus if self.snapshot else ()
        samples = self.machine.store.samples()
        seats = {s: placed_on(self.snapshot, s) if self.snapshot else () for s in self.services}
        return {s: footprint(self.machine, one, gpus, samples, seats[s]) for s, one in self.services.items()}

    def loaded(self) -> Iterator[tuple[str, Kept, LoadedUnit]]:
        """Services that are units, as their manager knows them. A manager that cannot be asked is told elsewhere."""
        for manager in self.managers:
            mine = {s: kept for s, kept in self.kept.items() if kept.manager == manager}
            try:
                shown = self.computer.units(manager, {kept.name for kept in mine.values()})
            except GpumodError:
                continue
            for service, kept in mine.items():
                unit = shown.get(kept.name)
                if unit is not None and unit.loaded:
                    yield service, kept, unit

    def is_up(self, service: str) -> bool:
        return self.snapshot is not None and self.snapshot.reading(service).state not in GONE


def fine(name: str, message: str, hint: str = "") -> Check:
    return Check(name=name, level="ok", message=message, hint=hint)


def warning(name: str, message: str, hint: str) -> Check:
    return Check(name=name, level="warning", message=message, hint=hint)


def problem(name: str, message: str, hint: str) -> Check:
    return Check(name=name, level="problem", message=message, hint=hint)


def unseen(name: str, message: str, hint: str = "") -> Check:
    """What could not be looked at, or cannot be told from here: said, and not counted as wrong."""
    return Check(name=name, level="unknown", message=message, hint=hint)


def from_error(name: str, error: GpumodError) -> Check:
    said = f"{error.info.message}: {error.info.why}" if error.info.why else error.info.message
    return problem("database" if error.code == "database" else name, said, error.info.hint)
