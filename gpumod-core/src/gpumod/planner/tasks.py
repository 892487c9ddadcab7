"""From goals to tasks: what has to be done to each service, what it holds before, at its peak and after, and what
must be done before it (dependencies, ports, start order, turns). Memory comes later, in the schedule."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gpumod.domain.mode import Want
from gpumod.domain.states import Action, State, route
from gpumod.planner.goals import UP, Goal, Goals
from gpumod.planner.placement import Places
from gpumod.planner.world import Load, World, most

BEGIN = (Action.WAKE, Action.START)


@dataclass(slots=True, eq=False)
class Task:
    """One step to be. `needs` must be done before it for reasons other than memory."""

    action: Action
    service: str
    why: str
    placed_on: tuple[int, ...]
    before: Load
    peak: Load
    after: Load
    seconds: float
    level: str | None = None
    exclusive: bool = False
    needs: list[Task] = field(default_factory=list)

    def takes(self, key: int) -> int:
        return self.peak.get(key, 0) - self.before.get(key, 0)

    def gives(self, key: int) -> int:
        return self.peak.get(key, 0) - self.after.get(key, 0)


@dataclass(slots=True)
class Tasks:
    """`stops` and `sleeps` come first (dependents before what they need); `starts` holds the rest, by service."""

    stops: list[Task] = field(default_factory=list)
    sleeps: list[Task] = field(default_factory=list)
    starts: dict[str, list[Task]] = field(default_factory=dict)


def ranked(world: World, goals: Goals, key: Callable[[Goal], float]) -> list[str]:
    """The members in the order in which they are given memory: by start order, each after what it needs, those that
    go to sleep again (and what they need) before those that stay awake, then the largest `key`.

    It looks at goals and footprints alone, not at states: a plan that is made again half-way keeps the order.
    """
    early: set[str] = set()
    waiting = [goal.service for goal in goals.members.values() if goal.state is State.SLEEPING]
    while waiting:
        service = waiting.pop()
        if service not in early:
            early.add(service)
            waiting.extend(world.needs(service))
    missing = {service: len(set(world.needs(service))) for service in goals.members}
    wanted_by: dict[str, list[str]] = {}
    for service in goals.members:
        for need in set(world.needs(service)):
            wanted_by.setdefault(need, []).append(service)

    def entry(service: str) -> tuple[int, bool, float, str]:
        goal = goals.members[service]
        return (goal.order, service not in early, -key(goal), service)

    heap = [entry(service) for service, count in missing.items() if count == 0]
    heapq.heapify(heap)
    out: list[str] = []
    while heap:
        service = heapq.heappop(heap)[-1]
        out.append(service)
        for dependent in wanted_by.get(service, ()):
            missing[dependent] -= 1
            if missing[dependent] == 0:
                heapq.heappush(heap, entry(dependent))
    return out


def make_tasks(world: World, goals: Goals, places: Places, rank: Iterable[str], late: frozenset[str]) -> Tasks:
    """All tasks, in `rank`. Those in `late` are put to sleep in their rank, not before everything that starts."""
    tasks = Tasks()
    stop_of: dict[str, Task] = {}
    _stops(world, goals, tasks, stop_of)
    begun: dict[str, Task] = {}
    turn: list[Task] = []
    barrier = _StartOrder()
    order = list(rank)
    for service in order:
        goal = goals.members[service]
        if goal.state is State.SLEEPING and world.state(service) is State.RUNNING and service not in goals.restarts:
            task = _task(world, Action.SLEEP, goal, places[service], world.now(service))
            if service in late:
                tasks.starts[service] = [task]
            else:
                tasks.sleeps.append(task)
                turn += [task] if goal.want is Want.TIME_SHARED else []
        elif goal.want is Want.TIME_SHARED and service in stop_of:
            turn.append(stop_of[service])
    ports = {port: task for service, task in stop_of.items() if (port := _port_now(world, service)) is not None}
    for service in order:
        goal = goals.members[service]
        chain = tasks.starts.get(service) or _begin(world, goals, goal, places[service], stop_of)
        if not chain:
            continue
        first = chain[0]
        if first.action in BEGIN:
            begun[service] = first
            first.needs += [stop_of[service]] if service in stop_of else []
            first.needs += [begun[need] for need in world.needs(service) if need in begun]
            found = world.definition(service)
            if found.port in ports and not found.host and ports[found.port].service != service:
                first.needs.append(ports[found.port])
            if goal.want is Want.TIME_SHARED and goal.state is State.SLEEPING:
                first.needs += turn
                turn = [chain[-1]]
        barrier.enter(goal.order, chain)
        tasks.starts[service] = chain
    return tasks


def _port_now(world: World, service: str) -> int | None:
    """The port that a service has while it is up: that of the definition it was started with."""
    found = world.reading(service).launched or world.find(service)
    return None if found is None or found.host else found.port


class _StartOrder:
    """A higher start order begins when all of the lower are done."""

    def __init__(self) -> None:
        self.order: int | None = None
        self.before: list[Task] = []
        self.present: list[Task] = []

    def enter(self, order: int, chain: list[Task]) -> None:
        if order != self.order:
            if self.present:
                inner = {id(need) for task in self.present for need in task.needs}
                self.before = [task for task in self.present if id(task) not in inner]
            self.order, self.present = order, []
        chain[0].needs += self.before
        self.present += chain


def _stops(world: World, goals: Goals, tasks: Tasks, stop_of: dict[str, Task]) -> None:
    for service in (*goals.stops, *goals.restarts, *goals.members):
        goal = goals.members.get(service)
        stopped = service in goals.stops or service in goals.restarts
        stopped |= goal is not None and goal.state is State.STOPPED and world.is_alive(service)
        if not stopped or service in stop_of:
            continue
        why = goals.stops.get(service) or goals.restarts.get(service) or (goal.why if goal else "")
        held = world.now(service)
        seconds = world.seconds(service, "stop")
        stop_of[service] = Task(Action.STOP, service, why, world.seat(service), held, held, {}, seconds)
    for service in sorted(stop_of):  # also one that failed: a member is taken out of its host before that ends
        for need in world.needs(service):
            if need in stop_of:
                stop_of[need].needs.append(stop_of[service])
    placed: set[str] = set()
    for service in sorted(stop_of):
        _dependents_first(stop_of[service], placed, tasks.stops)


def _dependents_first(task: Task, placed: set[str], out: list[Task]) -> None:
    """Append `task` to `out` after all that it waits for, without recursion (chains may be long)."""
    stack = [(task, False)]
    while stack:
        current, ready = stack.pop()
        if ready:
            out.append(current)
        elif current.service not in placed:
            placed.add(current.service)
            stack.append((current, True))
            stack.extend((need, False) for need in current.needs)


def _begin(world: World, goals: Goals, goal: Goal, gpus: tuple[int, ...], stop_of: dict[str, Task]) -> list[Task]:
    """The tasks that bring a member up, and back to sleep where that is its goal; its stop is made elsewhere."""
    if goal.state not in UP:
        return []
    service = goal.service
    state = State.STOPPED if service in goals.restarts else world.state(service)
    actions = [action for action in route(state, goal.state) if action is not Action.STOP]
    if Action.SLEEP in actions and Action.START not in actions:
        return []
    level = {} if service in stop_of else world.now(service)
    chain: list[Task] = []
    for action in actions:
        task = _task(world, action, goal, gpus, level)
        task.needs += chain[-1:]
        level = task.after
        chain.append(task)
    return chain


def _task(world: World, action: Action, goal: Goal, gpus: tuple[int, ...], before: Load) -> Task:
    service = goal.service
    if action is Action.SLEEP:
        after = world.asleep(service, gpus)
        peak = most(before, after)
    else:
        after = world.awake(service, gpus)
        peak = most(before, world.peak(service, gpus) if action is Action.START else after)
    slept = goal.state is State.SLEEPING and action is Action.START
    return Task(
        action,
        service,
        f"{goal.why}: started once" if slept else goal.why,
        gpus,
        before,
        peak,
        after,
        world.seconds(service, action.value),
        level=world.definition(service).sleep_level if action is Action.SLEEP else None,
        exclusive=action is Action.START and world.footprint(service).exclusive_start,
    )
