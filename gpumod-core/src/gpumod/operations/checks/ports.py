"""Ports: taken by others, and wanted by two services of which only one can have it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.machine import PortUser
from gpumod.engine.explain import free_port
from gpumod.operations.checks.case import Case, fine, problem
from gpumod.operations.results import Check
from gpumod.planner.changes import with_needs


def check_ports(case: Case) -> Iterator[Check]:
    found = [*_taken(case), *_doubles(case)]
    yield from found
    wanted = {service.port for service in case.services.values() if service.port}
    if wanted and not any(check.level != "ok" for check in found):
        yield fine("ports", f"{len(wanted)} wanted by services, none taken by others")


def _taken(case: Case) -> Iterator[Check]:
    """Of services that are down by whoever has it; of those that are up by somebody who was there before."""
    local = case.machine.local
    told = {*case.handles, *(stray.service for stray in case.strays)}
    down = {s.port for s in case.services.values() if s.port and s.id not in told}
    held = {handle.launched.port for handle in case.handles.values()}
    users = local.port_users(down - held)
    for service in case.services.values():
        user = users.get(service.port or 0) if service.id not in told else _stranger(case, service.id)
        if user is not None:
            message = f"port {service.port} is taken by {user}"
            yield problem(f"service {service.id}", message, free_port(case.machine, service, user))


def _stranger(case: Case, service: str) -> PortUser | None:
    handle = case.handles.get(service)
    if handle is None:
        return None
    pid = case.snapshot.reading(service).pid if case.snapshot else None
    if not handle.launched.port or pid is None or handle.launched.host:
        return None
    return case.machine.local.stranger_on(handle.launched.port, set(case.machine.local.tree(pid)))


def _doubles(case: Case) -> Iterator[Check]:
    by_port: dict[int, list[str]] = {}
    for service in case.services.values():
        if service.port and not service.host:
            by_port.setdefault(service.port, []).append(service.id)
    for port, names in sorted(by_port.items()):
        if len(names) < 2:
            continue
        said = f"{', '.join(names[:-1])} and {names[-1]} want port {port}"
        both = [mode for mode, members in _members(case) if len(members & set(names)) > 1]
        if both:
            message = f"{said}, and mode {', '.join(both)} names more than one of them"
            yield problem("ports", message, f"gpumod service edit {names[-1]} --port N")
        else:
            yield fine("ports", f"{said}: only one of them can be up at a time")


def _members(case: Case) -> Iterator[tuple[str, set[str]]]:
    """The services of each mode, with those that they need."""
    for mode in case.machine.store.modes().values():
        known = [service for service in mode.services if service in case.services]
        yield mode.id, set(with_needs(case.services, known))
