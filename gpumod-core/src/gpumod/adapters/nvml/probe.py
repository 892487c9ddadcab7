"""The probe `nvml`: real GPUs, their memory and their processes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from gpumod.adapters.bounded import Bounded
from gpumod.adapters.nvml import calls, people
from gpumod.adapters.nvml.cards import Card, Cards
from gpumod.adapters.nvml.faults import TIMEOUT, card_fault, driver_error
from gpumod.adapters.nvml.findings import findings
from gpumod.adapters.nvml.place import shared_folder
from gpumod.domain.errors import MachineLacks
from gpumod.domain.machine import Finding, GpuProcess, GpuReading, Ram
from gpumod.domain.settings import Settings

TIMEOUT_S = 20.0
"""The first call may take seconds where the driver has to wake the cards."""
Readings = tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]


class NvmlProbe:
    """Reads NVIDIA's cards. Cheap to make: the driver is asked at the first reading, and let go of with the probe."""

    name = "nvml"

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._lock_dir = settings.lock_dir
        self._bounded: Bounded[Any] = Bounded(timeout_s, lambda told: driver_error(TIMEOUT, told))
        self._cards = Cards()
        self._begun = False
        self._turn = threading.Lock()

    def read(self) -> Readings:
        """One reading of every card. A card that cannot be read has a `fault`; the others are read all the same.

        Raises MachineLacks: `no-nvidia-driver`, `driver-not-loaded`, `driver-mismatch`, `gpu-no-permission`,
        `gpu-timeout`, `driver-too-old`, `nvml-failed`.
        """
        result: Readings = self._bounded(self._read)
        return result

    def ram(self) -> Ram:
        now = psutil.virtual_memory()
        return Ram(total_mb=now.total // calls.MIB, available_mb=now.available // calls.MIB)

    def child_env(self, gpus: Sequence[int]) -> Mapping[str, str]:
        """The cards by UUID, which mean the same to every program. Raises MachineLacks `mig-one-instance`."""
        cards: list[Card] = self._bounded(self._find)
        return _visible([card.uuid for card in _seen(cards, gpus)])

    def numbered_env(self, gpus: Sequence[int]) -> Mapping[str, str]:
        """The cards by their numbers on the PCI bus: NVML's, and with CUDA_DEVICE_ORDER also CUDA's.

        A number tells no MIG instance, and CUDA counts neither partitioned GPUs nor lost ones as NVML does. Raises
        MachineLacks `gpus-by-number`, `mig-one-instance`.
        """
        cards: list[Card] = self._bounded(self._find)
        seen = _seen(cards, gpus)
        last = max((card.number for card in seen), default=-1)
        for card in cards if seen else ():
            if card.is_instance or (card.fault is not None and card.number < last):
                raise _no_number(seen, card)
        return _visible([str(card.number) for card in seen])

    def machine_dir(self) -> Path:
        return Path(self._lock_dir) if self._lock_dir else shared_folder()

    def findings(self) -> tuple[Finding, ...]:
        """What `doctor` shows beside the memory. Raises as :meth:`read`."""
        told: tuple[Finding, ...] = self._bounded(lambda: findings(self._find()))
        return told

    # --- in the bounded thread --------------------------------------------------------------------------------------

    def _find(self) -> list[Card]:
        with self._turn:
            if not self._begun:
                calls.begin()
                self._begun = True
                weakref.finalize(self, calls.end)
            try:
                return self._cards.find()
            except calls.Error as error:
                raise driver_error(calls.error_code(error), str(error)) from error

    def _read(self) -> Readings:
        gpus: list[GpuReading] = []
        found: list[GpuProcess] = []
        for card in self._find():
            try:
                if card.fault is None:
                    reading, processes = _look(card)
                    gpus.append(reading)
                    found += processes
                    continue
                fault = card.fault
            except calls.Error as error:
                fault = card_fault(calls.error_code(error), str(error), card.index, card.name)
            gpus.append(_unread(card).model_copy(update={"fault": fault}))
        return tuple(gpus), tuple(found)


def _seen(cards: Sequence[Card], gpus: Sequence[int]) -> list[Card]:
    """Those of `cards` that gpumod knows as `gpus`, in that order. Raises MachineLacks `mig-one-instance`."""
    by_index = {card.index: card for card in cards}
    seen = [by_index[gpu] for gpu in gpus if gpu in by_index]
    if len(seen) > 1 and any(card.is_instance for card in seen):
        raise MachineLacks(
            "mig-one-instance",
            "a process can use one MIG instance, and no other GPU beside it",
            why=f"it was to see {', '.join(f'{card.index} ({card.name})' for card in seen)}",
            hint="put the service on one of them (--gpus N); a llama.cpp router sees every GPU that gpumod uses:"
            " limit those with the setting cuda_devices",
        )
    return seen


def _visible(names: Sequence[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _no_number(seen: Sequence[Card], odd: Card) -> MachineLacks:
    """`odd` is the card because of which numbers do not tell those of `seen` for certain."""
    where = ", ".join(f"{card.index} ({card.name})" for card in seen)
    is_odd = "is a MIG instance" if odd.is_instance else "cannot be read"
    return MachineLacks(
        "gpus-by-number",
        f"GPU {where} cannot be told to a program that takes GPUs by number alone",
        why=f"GPU {odd.index} ({odd.name}) {is_odd}: numbers may mean another one",
        hint="install a version of the program that takes GPUs by UUID (vLLM does since 0.24.0, where gpumod can ask it"
        " for its version), or have it in a container",
    )


def _look(card: Card) -> tuple[GpuReading, list[GpuProcess]]:
    """One card's memory and the processes on it that live here.

    What the driver tells of others (just gone, or of another container) stays in use and belongs to nobody.
    """
    memory = calls.memory(card.handle)
    told = None if people.is_wsl() else calls.processes(card.handle)
    here = {pid: held_mb for pid, held_mb in (told or {}).items() if people.lives(pid)}
    strangers = told is not None and len(here) < len(told) and people.counts_pids_apart()
    reading = _unread(card).model_copy(
        update={
            "total_mb": memory.total_mb,
            "used_mb": max(0, memory.total_mb - memory.free_mb - memory.reserved_mb),
            "free_mb": memory.free_mb,
            "reserved_mb": memory.reserved_mb,
            "per_process": told is not None and None not in here.values() and not strangers,
        }
    )
    return reading, [
        GpuProcess(pid=pid, name=people.name_of(pid), gpu=card.index, vram_mb=held_mb) for pid, held_mb in here.items()
    ]


def _unread(card: Card) -> GpuReading:
    """A card of which nothing can be used."""
    return GpuReading(
        index=card.index,
        name=card.name,
        uuid=card.uuid,
        total_mb=0,
        used_mb=0,
        free_mb=0,
        architecture=card.architecture,
        compute_capability=card.capability,
    )
