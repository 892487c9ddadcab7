"""Which unit of systemd's is meant to run `gpumod watch`: a home has one, of one manager."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gpumod.domain.errors import Failed, GpumodError
from gpumod.operations.ports import InstallsWatch, Tools
from gpumod.operations.watch_results import Manager


def installed(tools: Tools) -> Mapping[Manager, InstallsWatch]:
    """Units that run `gpumod watch` for this home, by whose manager they are of."""
    found: dict[Manager, InstallsWatch] = {}
    for scope in ("user", "system"):
        with suppress(GpumodError):  # who is not in the password file has no units
            manager, unit = tools.watch_unit(scope)
            if unit.there() is not None:
                found[manager] = unit
    return found


def meant(tools: Tools, asked: Manager | None) -> tuple[Manager, InstallsWatch]:
    """The unit of the manager `asked`; without one the unit that is there, whatever is usual here by now."""
    there = installed(tools)
    if asked is None and len(there) == 1:
        return next(iter(there.items()))
    return tools.watch_unit(asked)


def others(tools: Tools, manager: Manager) -> tuple[InstallsWatch, ...]:
    """Units of other managers than `manager` that run it too."""
    return tuple(unit for whose, unit in installed(tools).items() if whose != manager)


def refuse_second(tools: Tools, manager: Manager) -> None:
    """Raise Failed (`watched-already`) where another manager than `manager` runs `gpumod watch` for this home."""
    for unit in others(tools, manager):
        raise Failed(
            "watched-already",
            f"the unit {unit.there()} runs `gpumod watch` for this home already",
            why=f"it is not of the {manager}'s manager, and two would mend the same things at once",
            hint=f"first {unit.command('--uninstall')}",
        )
