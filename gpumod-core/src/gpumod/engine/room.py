"""Making room for somebody, and putting back what was put away for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpumod.domain.errors import Failed
from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import Run, RunStatus
from gpumod.domain.service import Service
from gpumod.domain.states import GONE, State
from gpumod.engine.debts import brought_up
from gpumod.engine.device import unusable
from gpumod.engine.footprints import footprint, placed_on
from gpumod.engine.leases import counted, in_words, standing
from gpumod.engine.machine import Machine
from gpumod.engine.memory import free_mb_of
from gpumod.engine.planning import Options, Wanted, altered_in, definitions, launched, policy_of
from gpumod.engine.turns import begun_turns, held_by_turns, users
from gpumod.engine.unattributed import LAG_S, TOLERANCE_MB
from gpumod.planner import Room, make_room, target_of
from gpumod.plugins.kit import poll

LOOK_BACK = 200
"""So many of the last runs are looked at for a switch that came after a lease."""


def find_room(machine: Machine, snapshot: HostSnapshot, mb: int, gpu: int | None, options: Options) -> Room:
    """The cheapest room of `mb` MiB, with what runs counted as it was launched.

    Raises what `make_room` raises, and MachineLacks `gpu-lost` and the like where no GPU that is asked for can be used.
    """
    asked = [card for card in snapshot.gpus if gpu in (None, card.index)]
    bad = [card.fault for card in asked if card.fault is not None]
    if bad and len(bad) == len(asked):
        raise unusable(bad[0])
    services = definitions(snapshot, Wanted(Target(), machine.store.services()), ())
    samples = machine.store.samples()
    prints = {
        s: footprint(machine, definition, snapshot.gpus, samples, placed_on(snapshot, s))
        for s, definition in services.items()
    }
    turns = held_by_turns(users(begun_turns(machine), snapshot, services))
    leases = () if options.force else (*counted(machine, snapshot, standing(machine)), *turns)
    policy = policy_of(machine, options)
    return make_room(snapshot, services, prints, mb, gpu, leases=leases, policy=policy, force=options.force)


def put_away(
    machine: Machine, snapshot: HostSnapshot, room: Room
) -> tuple[dict[str, ServiceReading], dict[str, Service]]:
    """Readings and launched definitions of what the plan of `room` touches: what has to be put back. What is up only
    for turns counts as these leave it."""
    touched = sorted({step.service for step in room.plan.steps} & snapshot.services.keys())
    up, owed = launched(snapshot), brought_up(machine)
    before = {s: snapshot.services[s] for s in touched}
    left = {s: r.model_copy(update={"state": owed.get(s, r.state)}) for s, r in before.items()}
    return left, {s: up[s] for s in touched if s in up}


async def is_there(machine: Machine, mb: int, gpu: int) -> bool:
    """Wait until the device itself says that so much is free; False where it does not in time.

    What the steps freed was waited for already: only what has just died may still come.
    """

    async def there() -> bool | None:
        gpus, _ = await machine.read_gpus()
        return free_mb_of(gpus, gpu) >= mb - TOLERANCE_MB or None

    return bool(await poll(machine.clock, there, LAG_S))


@dataclass(frozen=True)
class Debt:
    """What is to be put back: readings and definitions as they were. `superseded` leases ended in a switch."""

    before: Mapping[str, ServiceReading]
    definitions: Mapping[str, Service]
    superseded: bool = False


def debt_of(machine: Machine, ended: Sequence[Holding]) -> Debt:
    """What was put away for leases that are over; where two put away the same, as the first found it.

    Whoever switched to a mode since has decided what runs: nothing is put back then.
    """
    newest = mode_run(machine)
    due = [holding for holding in ended if newest is None or _is_younger(holding, newest)]
    before: dict[str, ServiceReading] = {}
    launched_with: dict[str, Service] = {}
    for holding in reversed(due):
        before.update(holding.before)
        launched_with.update(holding.definitions)
    return Debt(before, launched_with, superseded=len(due) < len(ended))


def _is_younger(holding: Holding, run: Run) -> bool:
    """In the order of the journal: the clock may have been set back since. Of older leases the time alone is known."""
    return holding.mode_run == run.id if holding.mode_run is not None else holding.since > run.started_at


def mode_run(machine: Machine) -> Run | None:
    """The run by which the machine last went to a mode; None where none of the last ones did."""
    reached = (RunStatus.DONE, RunStatus.NOTHING_TO_DO)
    runs = machine.store.runs(LOOK_BACK, of_use=False)
    return next((run for run in runs if run.target.mode is not None and run.status in reached), None)


def refuse_owed(machine: Machine, services: Collection[str]) -> None:
    """Refuse to remove what made room for somebody and is still to come back.

    While the run that makes the room is open, :func:`~gpumod.engine.open_runs.refuse_in_use` says so.
    """
    run = machine.store.open_run()
    for holding in machine.store.holdings():
        if run is not None and run.lease == holding.id:
            continue
        owed = {member.service for member in _owed(debt_of(machine, [holding]))} & {*services}
        if owed:
            name = min(owed)
            raise Failed(
                "made-room",
                f"service {name!r} made room for a lease, and is to come back",
                why=f"{in_words(holding)}; nothing was changed",
                hint="gpumod free --back first",
            )


def lost(debt: Debt, defined: Mapping[str, Service]) -> Mapping[str, str]:
    """What cannot come back, and why: its definition, or that of its host, was removed meanwhile."""
    out: dict[str, str] = {}
    for member in _owed(debt):
        host = debt.definitions[member.service].host
        if member.service not in defined:
            out[member.service] = "it is no longer defined"
        elif host is not None and host not in defined:
            out[member.service] = f"its host {host} is no longer defined"
    return out


def _owed(debt: Debt) -> tuple[TargetMember, ...]:
    """What is to be up again."""
    return target_of(debt.before, debt.definitions).members


def way_back(debt: Debt, snapshot: HostSnapshot, defined: Mapping[str, Service]) -> Wanted:
    """Up again what was put away, in the state, on the GPUs and with the definition that it had.

    What somebody started or woke meanwhile stays as it is, and so does everything else. What is :func:`lost` is left
    out.
    """
    gone = lost(debt, defined)
    known = {**defined, **{s: d for s, d in debt.definitions.items() if s in defined}}
    services = {
        s: d.model_copy(update={"depends_on": tuple(need for need in d.depends_on if need in known)})
        for s, d in known.items()
    }
    members = []
    for member in _owed(debt):
        now = snapshot.reading(member.service).state
        if member.service in gone or now is State.RUNNING or (member.want is Want.ASLEEP and now not in GONE):
            continue
        members.append(member)
    return Wanted(Target(members=tuple(members), stop_others=False, altered=altered_in(debt.before)), services)
