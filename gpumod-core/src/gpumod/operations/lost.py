"""A database that was lost: it was not there, or empty, and a new one was made in a home that had been used."""

from __future__ import annotations

import shlex

from gpumod.domain.errors import ErrorInfo, GpumodError
from gpumod.engine.machine import Machine

USED = ("services", "sim")
"""Folders that only a home that was used holds: of what was started there, and of its simulated machine."""


def lost_database(machine: Machine) -> ErrorInfo | None:
    """What to say of a home that was used and whose database knows nothing, not even that anything was ever done."""
    store, home = machine.store, machine.home
    try:
        if store.services() or store.events(1):
            return None
    except GpumodError:  # it is there: whoever needs what cannot be read of it says so
        return None
    signs = [name for name in USED if (home / name).is_dir()]
    if not signs:
        return None
    init = "gpumod init"
    if "sim" in signs:
        init += f" --sim-dir {shlex.quote(str(home / 'sim'))}"
    return ErrorInfo(
        code="database-lost",
        message=f"{home} was used before (it holds {' and '.join(signs)}), but its database was not there, or empty:"
        " there is a new one now",
        why="what was defined is lost, and services that ran are not known any more",
        hint="put a copy of gpumod.db back, if there is one, and leave no gpumod.db-wal and -shm of another beside it;"
        f" else `{init}`, and `gpumod apply -f FILE` of what `gpumod export` once wrote; `gpumod doctor` names what"
        " still runs",
    )
