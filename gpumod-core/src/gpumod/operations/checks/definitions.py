"""Definitions: options that a driver refuses, sleep levels that nobody offers, programs and folders that lack."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.machine import HOSTED
from gpumod.engine.variables import check_secrets
from gpumod.operations.checks.case import Case, problem
from gpumod.operations.results import Check
from gpumod.planner.goals import no_such_gpu
from gpumod.plugins.isolation import reason


def check_definitions(case: Case) -> Iterator[Check]:
    """What hinders several services in the same words is one finding, which names them."""
    hindered: dict[tuple[str, str], list[str]] = {}
    for service in case.services.values():
        if (said := _hindrance(case, service)) is not None:
            hindered.setdefault(said, []).append(service.id)
    for (message, hint), services in hindered.items():
        if len(services) == 1:
            yield problem(f"service {services[0]}", message, hint)
        else:
            yield problem("services", f"{', '.join(services)}: {message}", hint)


def _hindrance(case: Case, service: Service) -> tuple[str, str] | None:
    """What keeps a service from being started, and what mends it."""
    edit = f"gpumod service edit {service.id}"
    try:
        case.machine.driver(service).check(service)
        if service.supports_sleep:
            case.machine.strategy(service)
        _check_start(case, service)
    except GpumodError as error:
        return error.info.message, error.info.hint
    except ValueError as error:
        return str(error), edit
    except Exception as error:  # noqa: BLE001 - a stranger's supervisor or probe that breaks is a finding, too
        return f"what is to start it breaks: {reason(error)}", "update or repair the plugin that does: gpumod plugins"
    return None


def _check_start(case: Case, service: Service) -> None:
    """Raise what would keep a service from being started: its supervisor, its program, its folder."""
    machine = case.machine
    name = machine.supervisor_name(service)
    if name == HOSTED:
        return
    if service.adopted and service.adopted.pid:  # it runs, or somebody else starts it
        return
    gpus = case.snapshot.gpus if case.snapshot else machine.look_at_gpus()[0]
    there = [gpu.index for gpu in gpus]
    seat = there[:1] if service.gpus == "any" else list(service.gpus)
    for index in seat:
        if index not in there:
            raise no_such_gpu(service.id, index, there)
    check_secrets(machine, service)
    supervisor = machine.supervisor(name)
    handle = Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=0)
    if (known := case.launches.get(service.id)) is not None:
        supervisor.check(handle, known)
        return
    if service.id in case.hindered:
        raise ValueError(case.hindered[service.id])
    allocation = machine.allocation(service, seat, service.vram_mb, gpus, {})
    launch = machine.launch(service, allocation, name)
    supervisor.check(handle, launch)
