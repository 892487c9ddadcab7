"""Number formats: services whose options ask a card for what it does not compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from gpumod.domain.cards import NATIVE_FROM, capability_of
from gpumod.engine.formats import lacking, needs_of
from gpumod.operations.checks.case import Case, fine, warning
from gpumod.operations.results import Check
from gpumod.ports import FormatNeed


def check_formats(case: Case) -> Iterator[Check]:
    """Where no card can be read now, those count that were there at `gpumod init`."""
    gpus = case.snapshot.gpus if case.snapshot else case.machine.store.gpu_profiles()
    for service in case.services.values():
        needs: tuple[FormatNeed, ...] = ()
        with suppress(Exception):  # that its driver breaks, or refuses its options, is told with its definition
            needs = needs_of(case.machine.driver(service), service)
        for need in needs:
            if not (cards := lacking(need, service, gpus)):
                continue
            major, minor = NATIVE_FROM[need.number_format]
            named = ", ".join(f"GPU {gpu.index} ({gpu.name}) has {capability_of(gpu)}" for gpu in cards)
            said = (
                f"{need.option} is meant for cards that compute in {need.number_format} (compute capability"
                f" {major}.{minor} or newer), and {named}"
            )
            others = ", or keep it to the others: --gpus" if len(cards) < len(gpus) and service.gpus == "any" else ""
            if need.emulated:
                yield fine(
                    f"service {service.id}",
                    f"{said}: there it is done by other means, slower or not at all",
                    f"{need.instead}{others}",
                )
            else:
                hint = f"{need.instead}{others}"
                yield warning(f"service {service.id}", f"{said}: it will not start there, or not run well", hint)
