"""The setting `user`: what services are to read under it, and that user may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpumod.domain.service import Service
from gpumod.operations.checks.case import Case, problem
from gpumod.operations.results import Check

RUNS_AS_USER = "systemd-system"
"""The only supervisor that the setting `user` speaks of."""


def check_service_user(case: Case) -> Iterator[Check]:
    user = case.machine.settings.user
    if user is None:
        return
    wanted = {one.id: _paths(case, one) for one in case.services.values() if _runs_as_user(case, one)}
    paths = {path for mine in wanted.values() for path in mine}
    unreadable = case.computer.unreadable(user, paths) if paths else ()
    for service, mine in wanted.items():
        if lacking := [str(path) for path in mine if path in unreadable]:
            yield problem(
                f"service {service}",
                f"the user {user}, as whom it runs, may not read {', '.join(lacking)}",
                f"each folder on the way must let {user} pass (`namei -l {lacking[0]}` shows them): give it to them or"
                " a group of that user's, move it out of root's home, or choose another setting user",
            )


def _runs_as_user(case: Case, service: Service) -> bool:
    keeper = case.services.get(service.host or "", service)
    return not keeper.adopted and case.machine.supervisor_name(keeper) == RUNS_AS_USER


def _paths(case: Case, service: Service) -> list[Path]:
    """Program, working folder and model of a service, as far as they are told by absolute paths that are there."""
    settings, launch = case.machine.settings, case.launches.get(service.id)
    named = [launch.argv[0], launch.cwd] if launch else []
    if case.real:  # what stands in for the runtimes reads no model
        named += [service.model_path, settings.hf_home]
    paths = (Path(name) for name in named if name)
    return [path for path in dict.fromkeys(paths) if path.is_absolute() and case.computer.place(path).kind != "missing"]
