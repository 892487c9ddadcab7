"""The core's own plugin: its parts are offered through the same hooks as everybody's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpumod.domain.settings import Settings
from gpumod.plugins.hookspecs import hookimpl
from gpumod.plugins.offers import GpuProbeOffer, SupervisorOffer

if TYPE_CHECKING:
    from gpumod.ports import Clock, GpuProbe, Supervisor

Scope = Literal["user", "system"]


def _process(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    # Imported when used: most commands start no process.
    from gpumod.adapters.process import ProcessSupervisor  # noqa: PLC0415 - only who uses it pays for the import

    return ProcessSupervisor(home, home_id, settings, clock)


def _systemd(scope: Scope) -> Callable[..., Supervisor]:
    def make(home: Path, home_id: str, settings: Settings, clock: Clock, folders: Sequence[Path]) -> Supervisor:
        from gpumod.adapters.systemd import SystemdSupervisor  # noqa: PLC0415 - as above

        return SystemdSupervisor(home, home_id, settings, clock, folders, scope=scope)

    return make


def _adopted(scope: Scope) -> Callable[..., Supervisor]:
    def make(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
        from gpumod.adapters.foreign.units import AdoptedUnits  # noqa: PLC0415 - as above

        return AdoptedUnits(home, clock, scope=scope)

    return make


def _adopted_processes(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    from gpumod.adapters.foreign.processes import AdoptedProcesses  # noqa: PLC0415 - as above

    return AdoptedProcesses(home, clock)


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
        ),
        SupervisorOffer(
            name="systemd-user",
            summary="units of your own systemd manager; needs no rights",
            factory=_systemd("user"),
            takes_templates=True,
        ),
        SupervisorOffer(
            name="systemd-system",
            summary="units of the system's systemd manager; needs root, or a polkit rule",
            factory=_systemd("system"),
            takes_templates=True,
        ),
        SupervisorOffer(
            name="adopted-user", summary="adopted units of your own manager", factory=_adopted("user"), adopts=True
        ),
        SupervisorOffer(
            name="adopted-system", summary="adopted units of the system", factory=_adopted("system"), adopts=True
        ),
        SupervisorOffer(name="adopted-process", summary="adopted processes", factory=_adopted_processes, adopts=True),
    ]
