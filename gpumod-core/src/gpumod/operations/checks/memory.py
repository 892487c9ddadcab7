"""Host memory: what is there and in use, and what services that sleep in it would take and pin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from gpumod.domain.errors import GpumodError
from gpumod.domain.machine import Ram
from gpumod.operations.checks.case import Case, fine, problem, unseen, warning
from gpumod.operations.results import Check

PRESSURE = 10.0
"""Percent of the last ten seconds in which something waited for host memory, above which that is worth a word."""
SWAP_USED = 0.9
"""The part of the swap space that is in use, from which on a word is worth it."""


def check_memory(case: Case) -> Iterator[Check]:
    machine = case.machine
    sleepers = {s: f.ram_asleep_mb for s, f in case.footprints.items() if f.ram_asleep_mb}
    with suppress(GpumodError):  # without a probe, which is told with the GPUs
        yield from _ram(case, machine.probe.ram(), sleepers)
    percent = machine.local.memory_pressure()
    if percent is not None:
        told = f"something waited for host memory in {percent:g} % of the last ten seconds"
        hint = "L1 sleep needs host RAM: end what takes it, or let services sleep by being stopped"
        name = "host memory pressure"
        yield warning(name, told, hint) if percent >= PRESSURE else fine(name, told)
    if case.real:
        yield from _swap(case)
        yield from _pinned(case, sleepers)


def _ram(case: Case, ram: Ram, sleepers: Mapping[str, int]) -> Iterator[Check]:
    reserve_mb = case.machine.settings.ram_reserve_mb
    told = f"{ram.available_mb} of {ram.total_mb} MiB available"
    low = ram.available_mb < reserve_mb
    yield warning("ram", told, "putting services to sleep at L1 needs host RAM") if low else fine("ram", told)
    for service, need_mb in sleepers.items():
        if need_mb > ram.total_mb - reserve_mb:
            yield warning(
                f"service {service}",
                f"asleep at {case.services[service].sleep_level} it takes {need_mb} MiB of host RAM, of which there are"
                f" {ram.total_mb}, {reserve_mb} of them reserved",
                f"gpumod service edit {service} --sleep-mode l2, or none: it is stopped then",
            )


def _swap(case: Case) -> Iterator[Check]:
    now = case.computer.memory()
    if now.swap_total_mb == 0:
        yield fine("swap", "there is none: what does not fit into host RAM is ended by the kernel")
        return
    told = f"{now.swap_free_mb} of {now.swap_total_mb} MiB free"
    full = now.swap_free_mb < (1 - SWAP_USED) * now.swap_total_mb
    hint = "host RAM is short: see what takes it (ps aux --sort -rss); pinned memory can never be swapped"
    yield warning("swap", told, hint) if full else fine("swap", told)


def _pinned(case: Case, sleepers: Mapping[str, int]) -> Iterator[Check]:
    """How much memory services may lock, and what their control groups leave them, against what sleep would take."""
    own_mb = case.computer.memory().memlock_mb
    units = {service: unit for service, _, unit in case.loaded()}
    short: dict[str, int] = {}
    for service, need_mb in sleepers.items():
        unit = units.get(service)
        if unit is not None and unit.memory_mb is not None and unit.memory_mb < need_mb:
            yield problem(
                f"service {service}",
                f"its unit may use {unit.memory_mb} MiB of host RAM (MemoryMax=), and asleep it takes {need_mb}:"
                " the kernel would end it",
                f"systemctl edit its unit (gpumod service unit {service}), or --sleep-mode none",
            )
        limit_mb = own_mb if unit is None else unit.memlock_mb
        if limit_mb is not None and limit_mb < need_mb:
            short[service] = limit_mb
    said = "no limit" if own_mb is None else f"{own_mb} MiB"
    if not short:
        yield fine("pinned memory", f"{said} may be locked (ulimit -l), and no service needs more to sleep")
        return
    worst = max(short, key=lambda service: sleepers[service])
    yield unseen(
        "pinned memory",
        f"{worst} may lock {short[worst]} MiB (RLIMIT_MEMLOCK), and asleep it keeps {sleepers[worst]} MiB in pinned"
        " memory: whether the driver counts that is seen only when it sleeps",
        "if it fails: ulimit -l unlimited, or LimitMEMLOCK=infinity in units (gpumod template edit unit.service.j2);"
        " llama.cpp does without pinned memory: GGML_CUDA_NO_PINNED=1",
    )
