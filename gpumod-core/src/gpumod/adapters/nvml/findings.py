"""What `gpumod doctor` is told of the driver and of each card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpumod.adapters.nvml import calls, people
from gpumod.adapters.nvml.cards import Card
from gpumod.domain.machine import Finding


def findings(cards: Iterable[Card]) -> tuple[Finding, ...]:
    """The driver's versions; of each card its UUID, persistence and MIG, and whether processes are told."""
    found = [Finding(name="driver", message=", ".join(f"{what} {which}" for what, which in calls.versions().items()))]
    instances: dict[int, int] = {}
    for card in cards:
        instances[card.number] = instances.get(card.number, 0) + card.is_instance
        if card.fault is None:
            found += _of_card(card)
    for number in range(calls.count()):
        found += _of_gpu(number, instances.get(number, 0))
    return tuple(found)


def _of_card(card: Card) -> Iterator[Finding]:
    name = f"gpu {card.index}"
    kind = [card.uuid]
    try:
        told = None if people.is_wsl() else calls.processes(card.handle)
        kept_mb = calls.memory(card.handle).reserved_mb
    except calls.Error:
        return  # the card's own line says what is wrong with it
    if kept_mb:
        kind.append(f"the driver keeps {kept_mb} MiB for itself")
    yield Finding(name=name, message=", ".join(part for part in kind if part))
    if told is not None and None not in told.values():
        yield Finding(name=name, message="the driver tells what each process holds")
        return
    yield Finding(
        name=name,
        message="the driver does not tell what each process holds"
        + (" on this MIG instance" if card.is_instance else " (WSL)" if people.is_wsl() else ""),
        hint="what a service holds is taken from the difference that it makes to the whole device",
    )


def _of_gpu(number: int, instances: int) -> Iterator[Finding]:
    try:
        handle = calls.handle_of(number)
        now, later = calls.mig(handle)
    except calls.Error:
        return
    if now:
        name = calls.optional(calls.name_of, handle) or f"GPU {number}"
        yield Finding(
            name="mig",
            level="ok" if instances else "warning",
            message=f"{name} is partitioned: its {instances} instances are used in its place; memory and processes are"
            " read of each of them, and of the card as a whole nothing",
            hint="" if instances else "make instances (nvidia-smi mig -cgi ... -C), or switch MIG off",
        )
    if now != later:
        yield Finding(name="mig", message=f"MIG of GPU {number} changes at its next reset")
    if calls.persistence(handle) is False:
        yield Finding(
            name="persistence",
            message=f"persistence mode of GPU {number} is off: the first use after a pause takes seconds",
            hint="sudo nvidia-smi -pm 1, or enable nvidia-persistenced",
        )
