"""The setting `user`: what services are to read under it, and that user may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.operations.checks.case import Case, problem
from gpumod.operations.results import Check
from gpumod.ports.units import WritesUnits

RUNS_AS_USER = "systemd-system"
"""The only supervisor that the setting `user` speaks of."""


def check_service_user(case: Case) -> Iterator[Check]:
    user = case.machine.settings.user
    if user is None:
        return
    services = [service for service in case.services.values() if _runs_as_user(case, service)]
    programs = {service.id: program for service in services if (program := _program(case, service))}
    paths = {service.id: _paths(case, service) for service in services}
    every = {path for mine in paths.values() for path in mine}
    unreadable = case.computer.unreadable(user, every, programs.values()) if services else ()
    for service, mine in paths.items():
        if lacking := [str(path) for path in (programs.get(service), *mine) if path in unreadable]:
            yield problem(
                f"service {service}",
                f"the user {user}, as whom it runs, may not read or execute {', '.join(lacking)}",
                f"each folder on the way must let {user} pass (`namei -l {lacking[0]}` shows them): give it to them or"
                " a group of that user's, move it out of root's home, or choose another setting user",
            )


def _runs_as_user(case: Case, service: Service) -> bool:
    keeper = case.services.get(service.host or "", service)
    return not keeper.adopted and case.machine.supervisor_name(keeper) == RUNS_AS_USER


def _program(case: Case, service: Service) -> Path | None:
    """What its unit starts, found where the unit looks; None where that cannot be told, which its definition tells."""
    with suppress(GpumodError):
        launch, supervisor = case.launches.get(service.id), case.machine.supervisor(RUNS_AS_USER)
        if launch and isinstance(supervisor, WritesUnits):
            handle = Handle(service=service.id, supervisor=RUNS_AS_USER, nonce="", launched=service, started_at=0)
            return Path(program) if (program := supervisor.unit(handle, launch).program) else None
    return None


def _paths(case: Case, service: Service) -> list[Path]:
    """Working folder and model of a service, as far as they are told by absolute paths that are there."""
    settings, launch = case.machine.settings, case.launches.get(service.id)
    named: list[str | Path | None] = [launch.cwd] if launch else []
    if case.real:  # what stands in for the runtimes reads no model
        named += [service.model_path, settings.hf_home]
    paths = (Path(name) for name in named if name)
    return [path for path in dict.fromkeys(paths) if path.is_absolute() and case.computer.place(path).kind != "missing"]
