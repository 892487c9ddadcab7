"""From a target to goals: what is wanted with all it needs, what is stopped, what restarts, what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from gpumod.domain.errors import UnknownName, UsageError
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.service import STOP_LEVEL
from gpumod.domain.states import GONE, State
from gpumod.planner.world import World

UP = (State.RUNNING, State.SLEEPING)


@dataclass(frozen=True, slots=True)
class Goal:
    """Where one wanted service is to go. `order` is its start order, lowered to that of whoever needs it."""

    service: str
    state: State
    want: Want
    why: str
    order: int
    gpus: tuple[int, ...] | None = None


@dataclass(slots=True)
class Goals:
    """Everything that the steps are made from. `stops` and `restarts` map a service to why."""

    members: dict[str, Goal]
    stops: dict[str, str] = field(default_factory=dict)
    restarts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def kept(self, world: World) -> list[str]:
        """Alive, not wanted and not stopped."""
        return [service for service in world.alive if service not in self.members and service not in self.stops]


def needs_first(world: World, wanted: Iterable[str]) -> list[str]:
    """`wanted` and all that it needs, each after its needs.

    Raises UnknownName (`unknown-service`, `unknown-dependency`) and UsageError (`dependency-cycle`), which name them.
    """
    graph: dict[str, tuple[str, ...]] = {}
    waiting = list(dict.fromkeys(wanted))
    for service in waiting:
        world.definition(service)
    while waiting:
        service = waiting.pop()
        if service in graph:
            continue
        graph[service] = world.needs(service)
        for need in graph[service]:
            if world.find(need) is None:
                raise UnknownName(
                    "unknown-dependency",
                    f"service {service!r} needs {need!r}, which does not exist",
                    hint=f"define {need}, or take it out of the dependencies of {service}",
                    service=service,
                    dependency=need,
                )
            waiting.append(need)
    try:
        return list(TopologicalSorter({service: sorted(graph[service]) for service in sorted(graph)}).static_order())
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        start = cycle.index(min(cycle))
        names = [*cycle[start:-1], *cycle[:start], cycle[start]]
        raise UsageError(
            "dependency-cycle",
            f"services depend on one another in a circle: {' -> '.join(names)}",
            hint="take one of these dependencies away",
            cycle=names,
        ) from None


def protected(world: World, target: Target) -> dict[str, str]:
    """What a switch leaves up although it is not wanted, and why: protected services, and what they need."""
    kept: dict[str, str] = {}
    for service in world.alive:
        if world.is_protected(service) and service not in target.stop:
            found = world.find(service)
            pinned = "pinned" if found and found.pinned else "adopted"
            kept[service] = f"held by {world.leased[service]}" if service in world.leased else pinned
    waiting = list(kept)
    while waiting:
        service = waiting.pop()
        for need in world.needs(service):
            if need not in kept and need not in target.stop and world.is_alive(need):
                kept[need] = f"{service} needs it"
                waiting.append(need)
    return kept


def close(world: World, target: Target, stopped: frozenset[str]) -> Goals:
    """The goals of the target's members and of all that they need.

    What a member needs is wanted awake. A member wanted asleep that can sleep only by being stopped (or is in
    `stopped`: no host RAM) is stopped, unless something that stays up needs it: then it is kept awake.
    """
    asked = {member.service: member for member in reversed(target.members)}
    if target.restart:
        asked |= _restarted_besides(world, target, needs_first(world, asked))
    reason = f"wanted by mode {target.mode}" if target.mode else "wanted"
    order = {service: member.start_order for service, member in asked.items()}
    needed_by: dict[str, list[str]] = {}
    members = needs_first(world, asked)
    upheld = _upheld_by_kept(world, target, frozenset(members))
    goals = Goals({})
    for service in reversed(members):
        member = asked.get(service)
        want = member.want if member else Want.AWAKE
        level = STOP_LEVEL if service in stopped else world.definition(service).sleep_level
        state = State.RUNNING
        why = (member.why or reason) if member else f"needed by {', '.join(sorted(needed_by[service])[:3])}"
        if want is not Want.AWAKE:
            state = State.STOPPED if level == STOP_LEVEL else State.SLEEPING
            why = (member and member.why) or ("sleeps until its turn" if want is Want.TIME_SHARED else "wanted asleep")
        if state is State.STOPPED and service in upheld:
            want, state, why = Want.AWAKE, State.RUNNING, f"{upheld[service]} needs it, and it cannot sleep"
        elif state is not State.RUNNING and service in world.leased and world.state(service) in (State.RUNNING, *GONE):
            state, why = State.RUNNING, f"stays awake: held by {world.leased[service]}"
            goals.notes.append(f"{service} {why}")
        goals.members[service] = Goal(service, state, want, why, order[service], member.gpus if member else None)
        for need in world.needs(service):
            needed_by.setdefault(need, []).append(service)
            order[need] = min(order.get(need, order[service]), order[service])
            if state in UP:
                upheld.setdefault(need, service)
    return goals


def _restarted_besides(world: World, target: Target, wanted: list[str]) -> dict[str, TargetMember]:
    """Those to restart that the target does not want otherwise: they are wanted as they are. Those down stay down."""
    out = {}
    for service in target.restart:
        world.definition(service)
        if service not in wanted and world.is_alive(service):
            want = Want.ASLEEP if world.state(service) is State.SLEEPING else Want.AWAKE
            out[service] = TargetMember(service=service, want=want)
    return out


def _upheld_by_kept(world: World, target: Target, members: frozenset[str]) -> dict[str, str]:
    """What stays up for services that are kept although they are not wanted, and for whom."""
    kept = protected(world, target) if target.stop_others else dict.fromkeys(world.alive, "")
    keepers = [service for service in kept if service not in members and service not in target.stop]
    return {need: service for service in keepers for need in world.needs(service) if world.is_alive(need)}


def check_target(world: World, target: Target, goals: Goals) -> None:
    """Raises UnknownName for a service to be stopped that nobody knows, UsageError for what cannot be."""
    for service in target.stop:
        if service not in world.snapshot.services:
            world.definition(service)
        if service in goals.members:
            raise UsageError(
                "wanted-and-stopped",
                f"service {service!r} is wanted and to be stopped at once",
                why=goals.members[service].why,
                hint="leave one of the two out",
            )
    _check_gpus(world, goals)
    _check_ports(world, target, goals)


def _check_gpus(world: World, goals: Goals) -> None:
    for goal in goals.members.values():
        defined = world.definition(goal.service).gpus
        for gpu in goal.gpus or (() if defined == "any" else defined):
            if gpu not in world.gpus:
                raise no_such_gpu(goal.service, gpu, world.gpus)


def no_such_gpu(service: str, gpu: int, known: Iterable[int]) -> UnknownName:
    """UnknownName `unknown-gpu`: `service` spans `gpu`, and the machine has those that are `known`."""
    return UnknownName(
        "unknown-gpu",
        f"service {service!r} asks for GPU {gpu}, which this machine has not",
        why=f"the machine has: {', '.join(map(str, known)) or 'none'}",
        hint="set `gpus` to one of these, or to any",
    )


def _check_ports(world: World, target: Target, goals: Goals) -> None:
    final = [*goals.members]
    if not target.stop_others:
        final += [service for service in world.alive if service not in target.stop]
    else:
        final += [service for service in world.alive if world.is_protected(service) and service not in target.stop]
    taken: dict[int, str] = {}
    for service in dict.fromkeys(final):
        found = world.find(service)
        if found is None or found.port is None or found.host is not None:
            continue
        other = taken.setdefault(found.port, service)
        if other != service:
            first, second = sorted((other, service))
            raise UsageError(
                "port-conflict",
                f"services {first!r} and {second!r} both want port {found.port}",
                hint=f"give one of them another port: gpumod service edit {second} --port N; one that was given another"
                f" while it runs takes it by gpumod service restart {first}",
                port=found.port,
            )
