"""What gpumod-docker offers. The heavy parts, the SDK among them, are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumod.api import (
    Clock,
    Driver,
    DriverOffer,
    MachineLacks,
    PresetsOffer,
    Settings,
    Supervisor,
    SupervisorOffer,
    hookimpl,
)


def _driver() -> Driver:
    from gpumod_docker.driver import DockerDriver  # noqa: PLC0415  # lazy on purpose, as below

    return DockerDriver()


def _supervisor(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    from gpumod_docker.supervisor import DockerSupervisor  # noqa: PLC0415 - only who uses it pays for the import

    return DockerSupervisor(home, home_id, settings, clock)


def _adopted(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    from gpumod_docker.adopted import AdoptedContainers  # noqa: PLC0415 - as above

    return AdoptedContainers(home, home_id, settings, clock)


@hookimpl
def gpumod_drivers() -> Iterable[DriverOffer]:
    summary = "any image that serves HTTP on a port"
    return [DriverOffer(name="docker", summary=summary, factory=_driver, run_with="docker")]


@hookimpl
def gpumod_supervisors() -> Iterable[SupervisorOffer]:
    summary = "containers of a Docker Engine on this machine; needs access to its socket"
    adopted = SupervisorOffer(name="adopted-container", summary="adopted containers", factory=_adopted, adopts=True)
    return [SupervisorOffer(name="docker", summary=summary, factory=_supervisor), adopted]


@hookimpl
def gpumod_presets() -> Iterable[PresetsOffer]:
    """Where there is an engine: elsewhere they would be definitions that nothing can start."""
    from gpumod_docker.engine import socket_path  # noqa: PLC0415  # as above

    try:
        there = socket_path().exists()
    except (MachineLacks, OSError):
        there = False
    if not there:
        return []
    folder = Path(__file__).parent / "presets"
    return [PresetsOffer(name="docker", summary="images of ollama, vLLM and llama.cpp", folder=folder)]
