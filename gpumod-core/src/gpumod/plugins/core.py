"""The core's own plugin: its parts are offered through the same hooks as everybody's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpumod.domain.settings import Settings
from gpumod.plugins.hookspecs import hookimpl
from gpumod.plugins.offers import SupervisorOffer

if TYPE_CHECKING:
    from gpumod.ports import Clock, Supervisor


def _process(home: Path, home_id: str, settings: Settings, clock: Clock) -> Supervisor:
    # Imported when used: most commands start no process.
    from gpumod.adapters.process import ProcessSupervisor  # noqa: PLC0415

    return ProcessSupervisor(home, home_id, settings, clock)


@hookimpl
def gpumod_supervisors() -> list[SupervisorOffer]:
    return [
        SupervisorOffer(
            name="process", summary="detached processes with logs of their own; needs nothing else", factory=_process
        )
    ]
