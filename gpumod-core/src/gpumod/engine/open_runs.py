"""The run that is open: somebody is at work, or it was left half-way. The lock tells which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpumod.domain.errors import HalfWay, MachineLacks, Stale
from gpumod.domain.holding import Holding
from gpumod.domain.run import Run
from gpumod.engine.leases import put_lease
from gpumod.engine.machine import Machine
from gpumod.ports import Holder


def left_half_way(machine: Machine) -> tuple[Run | None, Holder | None]:
    """The run of this home that nobody is at work on, if there is one; and who holds the machine, of whatever home."""
    run = machine.store.open_run()
    try:
        holder = machine.local.holder(machine.probe.machine_dir())
    except MachineLacks:
        holder = None  # a machine without a GPU has no lock
    if run is not None and holder is not None:
        of_this_home = Path(holder.home).resolve() == machine.home.resolve()
        return (None if of_this_home else run), holder
    if run is not None:  # it may have ended between the two looks
        again = machine.store.open_run()
        run = again if again is not None and again.id == run.id else None
    return run, holder


def at_work(holder: Holder) -> str:
    """Who holds the machine, in words."""
    return f"{holder.command} (pid {holder.pid}, {holder.user})"


def refuse_open_run(machine: Machine) -> None:
    """Refuse every change while a run is left half-way; reads go on. Called under the lock: nobody is at work."""
    run = machine.store.open_run()
    if run is not None:
        raise run_left(run)


def run_left(run: Run) -> HalfWay:
    """The error of a run that nobody is at work on, and that was not done."""
    return HalfWay(
        "interrupted-run",
        f"run {run.id} ({run.command}) was left half-way",
        why=run.error.message if run.error else "the gpumod that did it was ended before it was done",
        hint="gpumod recover --resume (go on) or gpumod recover --rollback (back to what was there)",
        run_id=run.id,
    )


def refuse_in_use(machine: Machine, command: str, uses: Callable[[Run], bool]) -> None:
    """Refuse to take away what the open run `uses`: Busy names who is at work, HalfWay how the run is closed.

    Called inside the transaction that takes it away, so that no run begins meanwhile.
    """
    run = machine.store.open_run()
    if run is not None and uses(run):
        with machine.local.lock(machine.probe.machine_dir(), command, machine.home):
            refuse_open_run(machine)


def uses_service(run: Run, service: str) -> bool:
    """True where `run` starts, stops or keeps `service`, or would bring it back."""
    touched = {record.step.service for record in run.steps}
    return service in run.wanted or service in run.definitions or service in touched


def begin(machine: Machine, run: Run, holding: Holding | None) -> None:
    """Journal that `run` begins, and store the lease for which it makes room.

    Raises Stale where its mode was deleted since it was planned: nothing was changed.
    """
    mode = run.target.mode
    with machine.store.together():
        if mode is not None and mode not in machine.store.modes():
            raise Stale("mode-deleted", f"mode {mode!r} was deleted meanwhile", why="nothing was changed")
        machine.store.add_run(run)
        if holding is not None:
            put_lease(machine, holding)
