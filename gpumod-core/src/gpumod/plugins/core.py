"""The core's own plugin: its parts are offered through the same hooks as everybody's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpumod.domain.settings import Settings
from gpumod.plugins.hookspecs import hookimpl
from gpumod.plugins.offers import GpuProbeOffer, SupervisorOffer

if TYPE_CHECKING:
    from gpumod.ports import Clock, GpuProbe, Supervisor


def _process(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    # Imported when used: most commands start no process.
    from gpumod.adapters.process import ProcessSupervisor  # noqa: PLC0415

    return ProcessSupervisor(home, home_id, settings, clock)


def _no_driver(settings: Settings) -> str | None:
    import ctypes  # noqa: PLC0415 - as above

    from gpumod.adapters.nvml.faults import LIBRARY, LIBRARY_NOT_FOUND, driver_error  # noqa: PLC0415 - as above

    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise driver_error(LIBRARY_NOT_FOUND, str(error)) from error
    return None


def _nvml(settings: Settings) -> GpuProbe:
    from gpumod.adapters.nvml.probe import NvmlProbe  # noqa: PLC0415 - as above

    return NvmlProbe(settings)


@hookimpl
def gpumod_gpu_probes() -> list[GpuProbeOffer]:
    return [
        GpuProbeOffer(name="nvml", summary="NVIDIA GPUs, through their driver", available=_no_driver, factory=_nvml)
    ]


@hookimpl
def gpumod_supervisors() -> list[SupervisorOffer]:
    return [
        SupervisorOffer(
            name="process", summary="detached processes with logs of their own; needs nothing else", factory=_process
        )
    ]
