"""What gpumod-sim offers: the `sim` probe, and how a simulated machine is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumod.api import GpuProbe, GpuProbeOffer, Settings, hookimpl


def _available(settings: Settings) -> str | None:
    from gpumod_sim.probe import no_machine  # noqa: PLC0415  # offers are read by every command

    return no_machine(settings.sim_machine)


def _probe(settings: Settings) -> GpuProbe:
    from gpumod_sim.probe import SimProbe  # noqa: PLC0415 - only who uses it pays for the import

    return SimProbe(settings.sim_machine or "")


def _create(folder: Path, gpus: list[tuple[str, int]]) -> dict[str, str]:
    from gpumod_sim.create import create_machine  # noqa: PLC0415 - only who uses it pays for the import

    return create_machine(folder, gpus)


@hookimpl
def gpumod_gpu_probes() -> Iterable[GpuProbeOffer]:
    return [
        GpuProbeOffer(
            name="sim",
            summary="a simulated GPU machine",
            order=10,
            available=_available,
            factory=_probe,
            create_machine=_create,
        )
    ]
