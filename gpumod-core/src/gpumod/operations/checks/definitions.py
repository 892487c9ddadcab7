"""Definitions: options that a driver refuses, sleep levels that nobody offers, programs and folders that lack."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.machine import HOSTED
from gpumod.operations.checks.case import Case, problem
from gpumod.operations.results import Check
from gpumod.plugins.isolation import reason


def check_definitions(case: Case) -> Iterator[Check]:
    for service in case.services.values():
        name = f"service {service.id}"
        try:
            case.machine.driver(service).check(service)
            if service.supports_sleep:
                case.machine.strategy(service)
            _check_start(case, service)
        except GpumodError as error:
            yield problem(name, error.info.message, error.info.hint)
        except ValueError as error:
            yield problem(name, str(error), f"gpumod service edit {service.id}")
        except Exception as error:  # noqa: BLE001 - a stranger's driver that breaks is a finding, too
            hint = f"update or repair what offers the driver {service.driver}: gpumod plugins"
            yield problem(name, f"its driver breaks: {reason(error)}", hint)


def _check_start(case: Case, service: Service) -> None:
    """Raise what would keep a service from being started: its supervisor, its program, its folder."""
    machine = case.machine
    name = machine.supervisor_name(service)
    if name == HOSTED:
        return
    if service.adopted and service.adopted.pid:  # it runs, or somebody else starts it
        return
    supervisor = machine.supervisor(name)
    gpus = case.snapshot.gpus if case.snapshot else machine.look_at_gpus()[0]
    seat = [gpu.index for gpu in gpus][:1] if service.gpus == "any" else list(service.gpus)
    allocation = machine.allocation(service, seat, service.vram_mb, gpus, {})
    launch = machine.launch(service, allocation, name)
    handle = Handle(service=service.id, supervisor=name, nonce="", launched=service, started_at=0)
    supervisor.check(handle, launch)
