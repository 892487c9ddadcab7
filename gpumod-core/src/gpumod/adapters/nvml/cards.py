"""The cards that services can go to: whole GPUs, and of a GPU that is partitioned (MIG) its instances in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumod.adapters.nvml import calls
from gpumod.adapters.nvml.faults import card_fault
from gpumod.domain.errors import ErrorInfo


@dataclass(frozen=True)
class Card:
    """One place for services. `number` is the GPU's own; `index`, under which gpumod knows it, counts instances too."""

    index: int
    number: int
    handle: Any
    name: str
    uuid: str
    architecture: str = ""
    capability: str = ""
    is_instance: bool = False
    fault: ErrorInfo | None = None


class Cards:
    """Finds the cards, in the order of the PCI bus. What was found before is remembered for a card that gets lost."""

    def __init__(self) -> None:
        self._known: dict[int, list[Card]] = {}

    def find(self) -> list[Card]:
        """Every card as it is now. Raises pynvml's error when the GPUs cannot even be counted."""
        found: list[Card] = []
        for number in range(calls.count()):
            found += self._of_gpu(number, len(found))
        return found

    def _of_gpu(self, number: int, index: int) -> list[Card]:
        try:
            handle = calls.handle_of(number)
            uuid = calls.uuid_of(handle)
            if calls.mig(handle)[0]:
                places = calls.mig_instances(handle)
                cards = [self._card(place, index + n, number, handle) for n, place in enumerate(places)]
            else:
                cards = [self._card(handle, index, number, handle, uuid)]
        except calls.Error as error:
            return self._lost(number, index, error)
        self._known[number] = cards
        return cards

    def _card(self, handle: Any, index: int, number: int, gpu: Any, uuid: str | None = None) -> Card:
        return Card(
            index=index,
            number=number,
            handle=handle,
            name=calls.name_of(handle),
            uuid=uuid or calls.uuid_of(handle),
            architecture=calls.architecture(gpu),
            capability=calls.capability(gpu),
            is_instance=handle is not gpu,
        )

    def _lost(self, number: int, index: int, error: Exception) -> list[Card]:
        """The cards of a GPU that cannot be read: those that it had, or one that stands for it."""
        before = self._known.get(number) or [Card(index, number, None, "of unknown kind", "")]
        code, text = calls.error_code(error), str(error)
        return [
            Card(index + n, number, None, was.name, was.uuid, was.architecture, was.capability, was.is_instance,
                 card_fault(code, text, index + n, was.name))
            for n, was in enumerate(before)
        ]  # fmt: skip
