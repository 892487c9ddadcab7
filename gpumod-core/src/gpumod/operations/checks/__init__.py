"""What `gpumod doctor` looks at, part by part: each yields what it found, and how to mend what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpumod.domain.errors import GpumodError
from gpumod.operations.checks.case import Case, from_error
from gpumod.operations.checks.definitions import check_definitions
from gpumod.operations.checks.devices import check_devices
from gpumod.operations.checks.ended import check_ended
from gpumod.operations.checks.exposure import check_exposure
from gpumod.operations.checks.formats import check_formats
from gpumod.operations.checks.gpus import check_gpus
from gpumod.operations.checks.home import check_home
from gpumod.operations.checks.leftovers import check_leftovers
from gpumod.operations.checks.memory import check_memory
from gpumod.operations.checks.models import check_models
from gpumod.operations.checks.plugins import check_plugins
from gpumod.operations.checks.ports import check_ports
from gpumod.operations.checks.programs import check_programs
from gpumod.operations.checks.running import check_running
from gpumod.operations.checks.service_user import check_service_user
from gpumod.operations.checks.strays import check_strays
from gpumod.operations.checks.suspend import check_suspend
from gpumod.operations.checks.systemd import check_systemd
from gpumod.operations.checks.timeouts import check_timeouts
from gpumod.operations.results import Check

Part = Callable[[Case], Iterator[Check]]

PARTS: tuple[tuple[str, Part], ...] = (
    ("home", check_home),
    ("gpu", check_gpus),
    ("service", check_formats),
    ("devices", check_devices),
    ("ram", check_memory),
    ("suspend", check_suspend),
    ("systemd", check_systemd),
    ("plugins", check_plugins),
    ("programs", check_programs),
    ("models", check_models),
    ("service", check_service_user),
    ("strays", check_strays),
    ("units", check_leftovers),
    ("service", check_definitions),
    ("ports", check_ports),
    ("network", check_exposure),
    ("times", check_timeouts),
    ("mode", check_ended),
    ("running", check_running),
)
"""Each part, and what it is called where it breaks off."""


def checks(case: Case) -> Iterator[Check]:
    """Everything that was found. A part that breaks off is a finding itself, and hinders no other. Blocks."""
    for name, part in PARTS:
        try:
            yield from part(case)
        except GpumodError as error:  # what is broken is a finding, whatever it is
            yield from_error(name, error)
