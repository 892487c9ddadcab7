"""What `doctor` finds about GPUs and host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpumod.domain.machine import GpuProcess, GpuReading, untold_mb
from gpumod.engine.machine import Machine
from gpumod.operations.results import Check
from gpumod.ports import TellsFindings

PRESSURE = 10.0
"""Percent of the last ten seconds in which something waited for host memory, above which that is worth a word."""


def check_gpus(machine: Machine) -> Iterator[Check]:
    """Every GPU, what the probe has to say besides, and the host's memory. Raises what the probe raises."""
    gpus, processes = machine.look_at_gpus()
    for gpu in gpus:
        yield from _check_gpu(machine, gpu, processes)
    yield from _missing(machine, gpus)
    if isinstance(machine.probe, TellsFindings):
        for finding in machine.probe.findings():
            yield Check.model_validate(finding.model_dump())
    yield from _check_ram(machine)


def _check_gpu(machine: Machine, gpu: GpuReading, processes: Sequence[GpuProcess]) -> Iterator[Check]:
    name = f"gpu {gpu.index}"
    if gpu.fault is not None:
        yield Check(name=name, level="problem", message=f"{gpu.fault.message}: {gpu.fault.why}", hint=gpu.fault.hint)
        return
    yield Check(name=name, level="ok", message=f"{gpu.name}: {gpu.free_mb} of {gpu.total_mb} MiB free")
    rest_mb = untold_mb(gpu, processes)
    if rest_mb > 0 and gpu.per_process:
        yield Check(
            name=name,
            level="warning",
            message=f"{rest_mb} MiB are in use and belong to no process",
            hint="the desktop or a process that is just ending; else a driver reset gives it back",
        )
    reserve_mb = machine.settings.reserve_mb
    if gpu.total_mb <= reserve_mb:
        yield Check(
            name=name,
            level="problem",
            message=f"the setting reserve_mb ({reserve_mb}) leaves nothing of {gpu.total_mb} MiB",
            hint="gpumod settings set reserve_mb 512",
        )


def _missing(machine: Machine, gpus: Sequence[GpuReading]) -> Iterator[Check]:
    """Cards that were there when the home was made ready, and are not any more."""
    here = {gpu.uuid for gpu in gpus}
    for was in machine.store.gpu_profiles():
        if was.uuid and was.uuid not in here and not machine.settings.cuda_devices:
            yield Check(
                name=f"gpu {was.index}",
                level="warning",
                message=f"{was.name} ({was.uuid}) was here at `gpumod init`, and is not any more",
                hint="look at `sudo dmesg`, its power and its seat; if it was taken out: gpumod init",
            )


def _check_ram(machine: Machine) -> Iterator[Check]:
    ram = machine.probe.ram()
    low = ram.available_mb < machine.settings.ram_reserve_mb
    yield Check(
        name="ram",
        level="warning" if low else "ok",
        message=f"{ram.available_mb} of {ram.total_mb} MiB available",
        hint="putting services to sleep at L1 needs host RAM" if low else "",
    )
    percent = machine.local.memory_pressure()
    if percent is not None:
        tight = percent >= PRESSURE
        yield Check(
            name="host memory pressure",
            level="warning" if tight else "ok",
            message=f"something waited for host memory in {percent:g} % of the last ten seconds",
            hint="L1 sleep needs host RAM: end what takes it, or let services sleep by being stopped" if tight else "",
        )
