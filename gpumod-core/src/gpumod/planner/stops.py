"""What is stopped and what restarts: others, hosts without members, dependents first, and the refusals."""

from __future__ import annotations

from gpumod.domain.errors import Failed
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.states import Action, State, route
from gpumod.planner.goals import UP, Goals, check_target, close, protected
from gpumod.planner.world import World


def find_goals(
    world: World, target: Target, stopped: frozenset[str] = frozenset(), crowd: frozenset[str] = frozenset()
) -> Goals:
    """The goals of every service. `stopped` sleep by being stopped, `crowd` restart to make room.

    Raises UnknownName, UsageError, and Failed (`has-dependents`) where something stands in the way.
    """
    extra: tuple[TargetMember, ...] = ()
    while True:
        wider = target.model_copy(update={"members": (*target.members, *extra)}) if extra else target
        goals = close(world, wider, stopped)
        check_target(world, target, goals)
        _stop(world, target, goals)
        more = _restart(world, target, goals, crowd)
        if not more:
            return goals
        extra += more


def _refuse(service: str, dependent: str) -> Failed:
    return Failed(
        "has-dependents",
        f"{service} cannot be stopped: {dependent} depends on it and stays up",
        why=f"{dependent} is not part of what changes",
        hint="stop it too with --cascade, or stop it first",
        service=service,
        dependent=dependent,
    )


def _stop(world: World, target: Target, goals: Goals) -> None:
    """Fill `goals.stops`: what was named, the others, dependents (cascade), and hosts that lose their last member."""
    for service in target.stop:
        if world.state(service) is not State.STOPPED:
            goals.stops[service] = "asked to stop"
    if target.stop_others:
        _stop_others(world, target, goals)
    waiting = list(goals.stops)
    while waiting:
        service = waiting.pop()
        for dependent in world.dependents.get(service, ()):
            if dependent in goals.stops or dependent in goals.members:
                continue
            if not world.policy.cascade:
                raise _refuse(service, dependent)
            goals.stops[dependent] = f"needs {service}, which stops"
            waiting.append(dependent)
    _stop_empty_hosts(world, goals)
    for service, reading in world.snapshot.services.items():
        found = world.find(service)
        if reading.state is State.FAILED and found and found.host in goals.stops and service not in goals.members:
            goals.stops.setdefault(service, "it failed, and its host stops: what is left of it is cleared")


def _stop_others(world: World, target: Target, goals: Goals) -> None:
    kept = protected(world, target)
    why = f"not in mode {target.mode}" if target.mode else "not wanted"
    failed = [name for name, reading in world.snapshot.services.items() if reading.state is State.FAILED]
    for service in sorted({*world.alive, *failed}):
        if service in goals.members or service in goals.stops:
            continue
        if service in failed:
            goals.stops[service] = "it failed: what is left of it is cleared"
        elif service in kept:
            goals.notes.append(f"{service} stays up: {kept[service]}")
        else:
            goals.stops[service] = why


def _stop_empty_hosts(world: World, goals: Goals) -> None:
    hosts = {found.host for service in goals.stops if (found := world.find(service)) and found.host}
    for host in sorted(hosts):
        if host in goals.members or host in goals.stops or world.is_protected(host) or not world.is_alive(host):
            continue
        if all(dependent in goals.stops for dependent in world.dependents.get(host, ())):
            goals.stops[host] = "its last member stops"


def _restart(world: World, target: Target, goals: Goals, crowd: frozenset[str]) -> tuple[TargetMember, ...]:
    """Fill `goals.restarts`: what must be stopped and started, with those up that depend on it.

    Returns members that have to be added to the target first (cascade: dependents that nobody asked for).
    """
    why = _asked_to_restart(world, target, goals, crowd)
    extra: list[TargetMember] = []
    waiting = [goal.service for goal in goals.members.values() if _must_stop(world, goals, goal.service, why)]
    while waiting:
        service = waiting.pop()
        if service in goals.restarts:
            continue
        goals.restarts[service] = why.get(service, f"is {world.state(service).value}")
        for dependent in world.dependents.get(service, ()):
            if dependent in goals.members:
                if goals.members[dependent].state in UP:
                    why.setdefault(dependent, f"restarts with {service}")
                    waiting.append(dependent)
            elif dependent not in goals.stops:
                if not world.policy.cascade:
                    raise _refuse(service, dependent)
                asleep = world.state(dependent) is State.SLEEPING
                extra.append(TargetMember(service=dependent, want=Want.ASLEEP if asleep else Want.AWAKE))
    return tuple({member.service: member for member in extra}.values())


def _asked_to_restart(world: World, target: Target, goals: Goals, crowd: frozenset[str]) -> dict[str, str]:
    why = dict.fromkeys(crowd, "restarts to make room for what starts")
    for service in target.restart:
        altered = world.snapshot.reading(service).altered
        why[service] = f"runs with {altered}" if altered else "asked to restart"
    for goal in goals.members.values():
        seat = world.seat(goal.service)
        if goal.gpus and world.state(goal.service) in UP and set(seat) != set(goal.gpus):
            why.setdefault(goal.service, f"moves to GPU {', '.join(map(str, goal.gpus))}")
    return why


def _must_stop(world: World, goals: Goals, service: str, why: dict[str, str]) -> bool:
    goal = goals.members[service].state
    if goal not in UP or not world.is_alive(service):
        return False
    if world.state(service) is State.FAILED:
        return True  # its start would count on the memory that it still holds, and lose sight of who holds it
    return service in why or Action.STOP in route(world.state(service), goal)
