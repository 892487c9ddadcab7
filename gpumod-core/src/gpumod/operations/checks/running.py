"""What runs: on the CPU where it should be on a GPU, and with another definition or unit than is there now."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gpumod.domain.adopted import THEIRS
from gpumod.domain.errors import GpumodError
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.service import Service
from gpumod.domain.states import State
from gpumod.engine.memory import ENOUGH, LEAST_MB
from gpumod.operations.base import drift
from gpumod.operations.checks.case import Case, Kept, fine, problem, unseen, warning
from gpumod.operations.results import Check
from gpumod.operations.subjects import of_unit, read


def check_running(case: Case) -> Iterator[Check]:
    if case.snapshot is None:  # told with the GPUs
        return
    if case.busy:  # memory comes a moment after a service answers
        found = [unseen("running", f"where services run is not looked at while somebody changes it: {case.busy}")]
    else:
        found = [*_on_the_cpu(case, case.snapshot)]
    found += _drift(case, case.snapshot)
    yield from found
    on_gpu = [service for service, _ in _on_gpus(case, case.snapshot)]
    if on_gpu and not found:
        yield fine("running", f"as defined, and on the GPU: {', '.join(on_gpu)}")


def _on_gpus(case: Case, snapshot: HostSnapshot) -> Iterator[tuple[str, int]]:
    """Services that answer and should hold memory on a GPU, and how much; where the driver tells what they hold."""
    for service, reading in snapshot.services.items():
        expected_mb = case.footprints[service].vram_mb if service in case.footprints else 0
        cards = [gpu for gpu in snapshot.gpus if gpu.index in reading.gpus]
        told = bool(cards) and all(gpu.per_process and gpu.fault is None for gpu in cards)
        if reading.state is State.RUNNING and told and expected_mb >= LEAST_MB:
            yield service, expected_mb


def _on_the_cpu(case: Case, snapshot: HostSnapshot) -> Iterator[Check]:
    for service, expected_mb in _on_gpus(case, snapshot):
        reading = snapshot.reading(service)
        held_mb = sum(reading.vram_mb.values())
        if held_mb < ENOUGH * expected_mb:
            yield _fallback(case, service, reading, f"it answers, but holds {held_mb} of {expected_mb} MiB on the GPU")


def _fallback(case: Case, service: str, reading: ServiceReading, said: str) -> Check:
    name, logs = f"service {service}", f"gpumod service logs {service}"
    if not _unloads_itself(case, case.services[service], reading):
        why = "it runs on the CPU, or lost its GPU: after a suspend, a reset of the card or an update of the driver"
        return problem(name, f"{said}: {why}", f"gpumod service restart {service}; {logs} may tell of a CUDA error")
    return unseen(name, f"{said}: it has put its model away itself, or fell back to the CPU", f"{logs} tells which")


def _unloads_itself(case: Case, service: Service, reading: ServiceReading) -> bool:
    """True for what may put its model away by itself. An adopted process may unless its runtime is known for sure."""
    driver = service.driver
    if service.adopted:
        facts = case.around.process(reading.pid) if reading.pid else None
        told = read(case.machine, [facts.command]) if facts else None
        if told is None or not told[1].sure:
            return True
        driver = told[0]
    return case.machine.capabilities(service.model_copy(update={"driver": driver})).unloads_itself


def _drift(case: Case, snapshot: HostSnapshot) -> Iterator[Check]:
    for service in case.services.values():
        reading = snapshot.reading(service.id)
        name, apply = f"service {service.id}", f"gpumod service restart {service.id} applies it"
        if fields := drift(service, reading):
            yield warning(name, f"it runs with another {', '.join(fields)} than is defined now", apply)
        kept = case.kept.get(service.id)
        if kept is not None and kept.differs:
            message = "its unit is not the one that gpumod would write now"
            yield warning(name, message, f"gpumod service unit {service.id} shows the difference, {apply}")
        if kept is not None and service.adopted:
            yield from _read_otherwise(case, service, kept, reading)
    for service_id, kept, unit in case.loaded():
        if unit.changed:
            yield warning(
                f"service {service_id}",
                f"the file of its unit {kept.name} was changed since systemd read it",
                f"systemctl {'--user ' if kept.manager == 'user' else ''}daemon-reload (docs/systemd.md: containers"
                " may lose their GPUs by that of the system's manager)",
            )


def _read_otherwise(case: Case, service: Service, kept: Kept, reading: ServiceReading) -> Iterator[Check]:
    """An adopted unit that says something else than its service: it was changed, or the service was edited."""
    try:
        unit = case.around.unit(kept.name, kept.manager)
    except GpumodError:  # told with the manager
        return
    told = read(case.machine, of_unit(case.around, unit).commands, service.driver) if unit else None
    said = told[1].fields if told else {}
    # a port may have been given by hand where its unit does not say it: as long as it answers there, that is right
    asked = [field for field in THEIRS if field != "port" or not reading.health_ok]
    other = [field for field in asked if said.get(field) and said[field] != getattr(service, field)]
    if other:
        now = ", ".join(f"{field} {said[field]}" for field in other)
        options = [f"--{field.replace('_', '-')} {shlex.quote(str(said[field]))}" for field in other]
        yield warning(
            f"service {service.id}",
            f"its unit says another {', '.join(other)} than is defined here: {now}",
            f"gpumod service edit {service.id} {' '.join(options)}",
        )
