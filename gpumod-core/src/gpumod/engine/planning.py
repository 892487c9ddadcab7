"""Planning over ports: what a change wants, with the footprints that are known, as a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gpumod.domain.footprint import Footprint
from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.plan import Lease, Plan, Policy, Target
from gpumod.domain.service import Service
from gpumod.domain.states import SERVING, Action, State
from gpumod.engine.debts import left_awake, wished
from gpumod.engine.footprints import footprint, placed_on, variants
from gpumod.engine.leases import counted, in_the_way, standing
from gpumod.engine.machine import Machine
from gpumod.engine.turns import Taken, begun_turns, held_by_turns, passed_over, taken_away, users
from gpumod.planner import make_plan
from gpumod.planner.changes import with_needs

AT_ONCE = ("name", "role", "depends_on", "pinned", "startup_timeout", "idle_timeout")
"""The fields of a definition that hold as soon as they are edited, while the service is up too."""


@dataclass(frozen=True)
class Wanted:
    """What a change wants: the target, and the definitions to use (stored ones, with an alternative's changes).

    `holding` is the lease for which room is made. It is stored when the run begins, and goes when that is rolled back.
    `named` are services that somebody asked to put to sleep: where these are in use the plan shows it, and is refused;
    what else is in use stays awake. `turn` is the id of the ticket that it is done for: that holds nothing up.
    """

    target: Target
    services: Mapping[str, Service]
    holding: Holding | None = None
    named: frozenset[str] = frozenset()
    turn: str = ""


@dataclass(frozen=True)
class Options:
    """How a change is done. `timeout_s` bounds each start; `force` also passes over leases, and says so; without
    `leases` nobody's are looked at, as on a way back. `kept` are the turns to count instead of those of now: what was
    planned is judged by those it was planned with, though one ended or began since."""

    force: bool = False
    leases: bool = True
    rollback: bool = True
    cascade: bool = False
    timeout_s: float | None = None
    kept: tuple[Lease, ...] | None = None


@dataclass(frozen=True)
class Planned:
    """A plan and what it was made from. `kept` are the turns for which it keeps services, `taken` is what it takes away
    from others, `turn` the id of the ticket that it is done for."""

    plan: Plan
    services: Mapping[str, Service]
    footprints: Mapping[str, Footprint]
    snapshot: HostSnapshot
    holding: Holding | None = None
    kept: tuple[Lease, ...] = ()
    taken: tuple[Taken, ...] = ()
    turn: str = ""


def plan_for(machine: Machine, snapshot: HostSnapshot, wanted: Wanted, options: Options) -> Planned:
    """Plan `wanted` from `snapshot`.

    What serves and goes on serving is counted, slept and woken as it was launched; what is started, as `wanted` says.
    Services that are up but no longer defined are known by what was launched.
    """
    samples = machine.store.samples()
    seats = {service: placed_on(snapshot, service) for service in snapshot.services}

    def footprint_of(service: Service) -> Footprint:
        return footprint(machine, service, snapshot.gpus, samples, seats.get(service.id, ()))

    policy = policy_of(machine, options)
    held = standing(machine) if options.leases else ()
    turns = [turn for turn in begun_turns(machine) if turn.id != wanted.turn]
    used = users(turns, snapshot, definitions(snapshot, wanted, ()))
    own = (wanted.holding,) if wanted.holding else ()
    kept = options.kept if options.kept is not None else held_by_turns(used) if options.leases else ()
    keeps = [lease for lease in kept if lease.service not in wanted.named]
    leases = () if options.force else (*counted(machine, snapshot, (*held, *own)), *keeps)
    begun = _to_begin(snapshot, wanted)
    while True:
        services = definitions(snapshot, wanted, begun)
        prints = {s: footprint_of(definition) for s, definition in services.items()}
        plan = make_plan(
            snapshot,
            wanted.target,
            services,
            prints,
            leases=leases,
            policy=policy,
            variants=variants(machine, services),
            stored={s: found for s, found in wanted.services.items() if found != services[s]},
            footprint_of=footprint_of,
            as_launched={s: footprint_of(old) for s, old in _as_up(snapshot, wanted).items() if s in begun},
        )
        more = {step.service for step in plan.steps if step.action is Action.START} - begun
        if all(services[s] == wanted.services.get(s, services[s]) for s in more):
            told = in_the_way(held, plan.target, forced=options.force, leads_to=_mode_it_leads_to(machine, plan))
            taken = taken_away(plan, snapshot, used)
            passed = passed_over(taken) if options.force and options.leases else ()
            awake = _left_awake(machine, snapshot, plan) if options.leases and not wanted.turn else ()
            lacking = _without_driver(machine, plan, services)
            noted = plan.model_copy(update={"notes": (*plan.notes, *lacking, *told, *passed, *awake)})
            keeping = () if options.force else kept
            return Planned(noted, services, prints, snapshot, wanted.holding, keeping, taken, wanted.turn)
        begun |= more  # dependents that restart too, or move: seen only in the plan


def _without_driver(machine: Machine, plan: Plan, services: Mapping[str, Service]) -> tuple[str, ...]:
    """What is counted, and could not be started: a change is refused for it, a simulation goes on without."""
    starts = [services[step.service] for step in plan.steps if step.action is Action.START]
    return tuple(
        f"{service.id} could not be started here: its driver {service.driver} is not there (gpumod plugins)"
        for service in starts
        if service.driver not in machine.plugins.drivers
    )


def _left_awake(machine: Machine, snapshot: HostSnapshot, plan: Plan) -> tuple[str, ...]:
    """What is awake for turns that are over, and stays so after `plan`, which does not want it."""
    touched, defined = {step.service for step in plan.steps}, machine.store.services()
    return tuple(
        told
        for service, told in left_awake(machine, snapshot).items()
        if service not in touched and wished(plan.target, service, defined, snapshot.services) is not State.RUNNING
    )


def _mode_it_leads_to(machine: Machine, plan: Plan) -> str | None:
    """The mode that is recorded anew when `plan` is done."""
    return plan.target.mode if plan.steps or plan.target.mode != machine.store.current_mode() else None


def policy_of(machine: Machine, options: Options) -> Policy:
    """What the settings and the options decide."""
    return Policy(
        reserve_mb=machine.settings.reserve_mb,
        ram_reserve_mb=machine.settings.ram_reserve_mb,
        cascade=options.cascade,
    )


def definitions(snapshot: HostSnapshot, wanted: Wanted, begun: Collection[str]) -> dict[str, Service]:
    """The definition that counts for each service: for what is up and not `begun` anew, what it was launched with.

    What is not of the process (:data:`AT_ONCE`) is taken from the definition of today in any case.
    """
    up = _as_up(snapshot, wanted)
    return {**wanted.services, **{s: old for s, old in up.items() if s not in begun or s not in wanted.services}}


def _as_up(snapshot: HostSnapshot, wanted: Wanted) -> dict[str, Service]:
    """The definitions of what is up, as they count for it."""
    out: dict[str, Service] = {}
    for service, old in launched(snapshot).items():
        today = wanted.services.get(service)
        out[service] = old.model_copy(update={name: getattr(today, name) for name in AT_ONCE}) if today else old
    return out


def _to_begin(snapshot: HostSnapshot, wanted: Wanted) -> set[str]:
    """What is to be started in any case: what restarts, and what is wanted and does not serve."""
    members = with_needs(wanted.services, [member.service for member in wanted.target.members])
    return {*wanted.target.restart, *(s for s in members if snapshot.reading(s).state not in SERVING)}


def launched(snapshot: HostSnapshot) -> Mapping[str, Service]:
    """The definitions with which what is up was started."""
    return {r.service: r.launched for r in snapshot.services.values() if r.launched}


def altered_in(readings: Mapping[str, ServiceReading]) -> Mapping[str, str]:
    """What an alternative had changed, by service: it comes back with that word."""
    return {service: reading.altered for service, reading in readings.items() if reading.altered}
