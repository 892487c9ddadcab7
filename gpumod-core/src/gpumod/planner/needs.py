"""What services need, checked without a machine: for definitions that are being written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpumod.domain.machine import HostSnapshot
from gpumod.domain.service import Service
from gpumod.planner.goals import needs_first
from gpumod.planner.world import World

NOWHERE = HostSnapshot(at=0, gpus=(), ram_total_mb=0, ram_available_mb=0)


def check_needs(services: Mapping[str, Service], wanted: Iterable[str]) -> tuple[str, ...]:
    """`wanted` and all that it needs, each after its needs.

    Raises UnknownName (`unknown-service`, `unknown-dependency`) and UsageError (`dependency-cycle`), which name them.
    """
    return tuple(needs_first(World(NOWHERE, services, {}), wanted))
