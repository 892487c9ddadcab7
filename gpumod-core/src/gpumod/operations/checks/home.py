"""The home: who may read it, whose its files are, room on its disk, its database, and what was left open in it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.errors import GpumodError
from gpumod.engine.open_runs import left_half_way
from gpumod.operations.checks.case import Case, fine, from_error, problem, warning
from gpumod.operations.leases import BACK, to_put_back
from gpumod.operations.lost import lost_database
from gpumod.operations.results import Check

NAMED = 5


def check_home(case: Case) -> Iterator[Check]:
    machine, home = case.machine, case.machine.home
    place = case.computer.place(home)
    if place.mode & 0o077:
        yield warning("home", f"{home} is open to others", f"chmod 700 {home}")
    elif not place.writable:
        yield problem("home", f"{home} cannot be written", f"ls -ld {home} shows its owner; its disk may be read-only")
    else:
        yield fine("home", str(home))
    inside = case.computer.inside(home)
    strange = [name for name, entry in inside.items() if entry.owner not in (place.owner, -1)]
    if strange:
        said = ", ".join(strange[:NAMED]) + (" and others" if len(strange) > NAMED else "")
        yield warning(
            "home",
            f"in {home} there is what belongs to another user than the home: {said}",
            f"sudo chown -R --reference={home} {home}",
        )
    free_mb = machine.local.free_disk_mb(home)
    enough = free_mb >= machine.settings.min_free_disk_mb
    told = f"{free_mb} MiB free"
    yield fine("disk", told) if enough else problem("disk", told, "free some space: changes are refused")
    lost = lost_database(machine)
    if lost is not None:
        yield problem("database", lost.message, lost.hint)
    for info in machine.store.problems():
        yield problem("database", info.message, info.hint)
    yield from _secrets(case)
    yield from _open(case)


def _secrets(case: Case) -> Iterator[Check]:
    kept = 0
    for service in case.services:
        try:
            kept += len(case.machine.secrets.names(service))
        except GpumodError as error:
            yield from_error("secrets", error)
    if kept:
        yield fine("secrets", f"{kept} kept, readable by their owner alone")


def _open(case: Case) -> Iterator[Check]:
    run, _ = left_half_way(case.machine)
    if run is not None:
        message = f"run {run.id} ({run.command}) was left half-way"
        yield problem("open run", message, "gpumod recover --resume, or --rollback")
    due = to_put_back(case.machine)
    if due:
        yield warning("leases", due, BACK)
