"""From a target to the best schedule: tries orders, falls back where host RAM is short, makes room where it can."""

from __future__ import annotations

from dataclasses import dataclass

from gpumod.domain.errors import Failed
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target
from gpumod.domain.states import State
from gpumod.planner.goals import Goal, Goals
from gpumod.planner.placement import Places, Resting, place
from gpumod.planner.schedule import Schedule, make_schedule
from gpumod.planner.stops import find_goals
from gpumod.planner.tasks import make_tasks, ranked
from gpumod.planner.world import RAM, World

NOTHING: frozenset[str] = frozenset()


@dataclass(slots=True)
class Solution:
    """What was decided, before it is told as a plan."""

    goals: Goals
    places: Places
    resting: Resting
    schedule: Schedule
    late: frozenset[str] = NOTHING


def solve(world: World, target: Target) -> Solution:
    """The schedule that reaches `target`; it may not fit, then its accounts say by how much."""
    solution = _with_ram(world, target, NOTHING)
    if solution.schedule.over and not unfit_in_the_end(world, solution):
        crowd = _crowd(world, solution)
        if crowd:
            try:
                roomy = _with_ram(world, target, crowd)
            except Failed:
                return solution
            if not roomy.schedule.over:
                names = ", ".join(sorted(crowd))
                roomy.goals.notes.append(f"{names} restarts: what starts needs the room for a moment")
                return roomy
    return solution


def unfit_in_the_end(world: World, solution: Solution) -> dict[int, int]:
    """GPUs on which the end state (and each turn) does not fit, with the MiB missing. Empty: only the way is narrow."""
    resting = solution.resting
    loads = {gpu: max(resting.idle[gpu] + resting.wake[gpu], resting.end[gpu]) for gpu in world.gpus}
    return {gpu: load - world.budgets[gpu] for gpu, load in loads.items() if load > world.budgets[gpu]}


def _crowd(world: World, solution: Solution) -> frozenset[str]:
    """Members that stay awake on the GPUs that are too narrow, and may be restarted."""
    narrow = {key for key, account in solution.schedule.accounts.items() if account.over and key != RAM}
    return frozenset(
        goal.service
        for goal in solution.goals.members.values()
        if goal.state is State.RUNNING is world.state(goal.service)
        and narrow & set(solution.places[goal.service])
        and not world.is_protected(goal.service)
        and world.footprint(goal.service).vram_mb
    )


def _with_ram(world: World, target: Target, crowd: frozenset[str]) -> Solution:
    """The best schedule in which everybody who sleeps finds the host RAM for it; the others are stopped instead."""
    late: frozenset[str] = NOTHING
    stopped: frozenset[str] = NOTHING
    notes: list[str] = []
    while True:
        solution = _best_order(world, target, stopped, crowd, late)
        short = frozenset(solution.schedule.no_ram)
        if not short and solution.schedule.over:
            short, late = late, NOTHING
        if not short:
            solution.goals.notes += notes
            return solution
        now = frozenset(service for service in short if _may_be_late(world, solution, service, late))
        if solution.schedule.no_ram and now:
            late |= now
            continue
        for service in sorted(short - stopped):
            need = world.asleep(service, ()).get(RAM, 0)
            free = max(0, world.budgets[RAM] - solution.resting.kept[RAM])
            end = "stays awake" if service in _upheld(world, solution.goals) else "is stopped instead of put to sleep"
            notes.append(f"{service} {end}: asleep it takes {need} MiB of host RAM, and {free} MiB may be used in all")
        stopped |= short
        late -= short


def _upheld(world: World, goals: Goals) -> set[str]:
    return {
        need for goal in goals.members.values() if goal.state is not State.STOPPED for need in world.needs(goal.service)
    }


def _may_be_late(world: World, solution: Solution, service: str, late: frozenset[str]) -> bool:
    """True where the sleep may wait until others gave host RAM back: it is awake now, and takes no turns."""
    goal = solution.goals.members[service]
    awake = world.state(service) is State.RUNNING and service not in solution.goals.restarts
    return awake and goal.want is not Want.TIME_SHARED and service not in late


def _over_whatever_comes_first(world: World, solution: Solution) -> bool:
    """True where a GPU is over, and what rests there in the end is more than its budget: no other order helps."""
    accounts, end = solution.schedule.accounts, solution.resting.end
    return any(accounts[gpu].over and end[gpu] > world.budgets[gpu] for gpu in world.gpus)


def _best_order(
    world: World, target: Target, stopped: frozenset[str], crowd: frozenset[str], late: frozenset[str]
) -> Solution:
    """The longest first is the fastest; where that does not fit, the largest excess first fits if anything does."""
    goals = find_goals(world, target, stopped, crowd)
    places, resting = place(world, goals)

    def slowest(goal: Goal) -> float:
        return world.seconds(goal.service, "start")

    def excess(goal: Goal) -> float:
        foot = world.footprint(goal.service)
        return foot.start_peak_mb - (foot.asleep_mb if goal.state is State.SLEEPING else foot.vram_mb)

    first: Solution | None = None
    for key in (slowest, excess):
        rank = ranked(world, goals, key)
        tasks = make_tasks(world, goals, places, rank, late)
        schedule = make_schedule(tasks, rank, world.budgets, world.before)
        solution = Solution(goals, places, resting, schedule, late)
        if not schedule.over:
            return solution
        first = first or solution
        if _over_whatever_comes_first(world, first):
            break
    assert first is not None  # noqa: S101  (the loop ran)
    return first
