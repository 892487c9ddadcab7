"""Which GPUs each wanted service goes to, and what rests on each GPU in the end."""

from __future__ import annotations

from dataclasses import replace

from gpumod.domain.errors import MachineLacks
from gpumod.domain.mode import Want
from gpumod.domain.service import STOP_LEVEL
from gpumod.domain.states import State
from gpumod.planner.goals import UP, Goal, Goals
from gpumod.planner.world import RAM, Load, World, add, most

Places = dict[str, tuple[int, ...]]


class Resting:
    """What rests on each GPU when the plan is done; `wake` is the largest step up that a turn takes there, `end` what
    is there then with those that stay awake for turns they have, `excess` the most that a start takes for a moment.
    """

    def __init__(self, world: World, goals: Goals) -> None:
        self.world = world
        self.goals = goals
        self.kept: Load = dict.fromkeys((*world.gpus, RAM), 0)
        for service in world.snapshot.services:
            if service not in goals.members and service not in goals.stops:
                add(self.kept, world.now(service))
        self.idle: Load = dict(self.kept)
        self.end: Load = dict(self.kept)
        self.wake: Load = dict.fromkeys(self.kept, 0)
        self.excess: Load = dict.fromkeys(self.kept, 0)

    def put(self, goal: Goal, gpus: tuple[int, ...]) -> None:
        add(self.idle, self.final(self.at_rest(goal), gpus))
        add(self.end, self.final(goal, gpus))
        for key, amount in self.step_up(goal, gpus).items():
            self.wake[key] = max(self.wake[key], amount)
        for gpu in gpus:
            self.excess[gpu] = max(self.excess[gpu], self.start_excess(goal, gpus).get(gpu, 0))

    def start_excess(self, goal: Goal, gpus: tuple[int, ...]) -> Load:
        """What its start takes for a moment beside what it takes awake, whether it has to start or not."""
        awake = self.world.awake(goal.service, gpus)
        return {key: amount - awake.get(key, 0) for key, amount in self.world.peak(goal.service, gpus).items()}

    def final(self, goal: Goal, gpus: tuple[int, ...]) -> Load:
        """What `goal` holds once reached; one that is there already keeps what it was seen to hold, if that is more."""
        if goal.state is State.STOPPED:
            return {}
        level = (self.world.awake if goal.state is State.RUNNING else self.world.asleep)(goal.service, gpus)
        stays = self.world.state(goal.service) is goal.state and goal.service not in self.goals.restarts
        return most(self.world.now(goal.service), level) if stays else level

    def at_rest(self, goal: Goal) -> Goal:
        """`goal` while another one has a turn: who takes turns, and stays awake for its own, has left it then."""
        if goal.want is not Want.TIME_SHARED or goal.state is not State.RUNNING:
            return goal
        stops = self.world.definition(goal.service).sleep_level == STOP_LEVEL
        return replace(goal, state=State.STOPPED if stops else State.SLEEPING)

    def step_up(self, goal: Goal, gpus: tuple[int, ...]) -> Load:
        """What a turn of `goal` takes beside what it keeps at rest; for one that is stopped, what its start takes."""
        if goal.want is not Want.TIME_SHARED:
            return {}
        rests = self.at_rest(goal)
        turn = (self.world.peak if rests.state is State.STOPPED else self.world.awake)(goal.service, gpus)
        final = self.final(rests, gpus)
        return {key: max(0, amount - final.get(key, 0)) for key, amount in turn.items() if key != RAM}

    def room(self, goal: Goal, gpu: int) -> int:
        """MiB left on `gpu` if `goal` were put there; negative when it does not fit."""
        rest = self.final(self.at_rest(goal), (gpu,)).get(gpu, 0)
        wake = max(self.wake[gpu], self.step_up(goal, (gpu,)).get(gpu, 0))
        end = self.end[gpu] + self.final(goal, (gpu,)).get(gpu, 0)
        return self.world.budgets[gpu] - max(self.idle[gpu] + rest + wake, end)

    def starts(self, goal: Goal, gpu: int) -> bool:
        """True when all that goes to `gpu` can be started there, in whatever order, and it beside what stays up."""
        peak = self.world.peak(goal.service, (gpu,)).get(gpu, 0)
        final = self.final(goal, (gpu,)).get(gpu, 0)
        excess = max(self.excess[gpu], self.start_excess(goal, (gpu,)).get(gpu, 0))
        load = max(self.kept[gpu] + peak, self.end[gpu] + final + excess)
        return load <= self.world.budgets[gpu]


def place(world: World, goals: Goals) -> tuple[Places, Resting]:
    """Where every member goes: where it is, as told, as defined, else first fit (largest first).

    A host is on all GPUs of its members. Raises MachineLacks `no-gpu` for a service that needs one where none is.
    """
    resting = Resting(world, goals)
    places: Places = {}
    free: list[Goal] = []
    hosts: list[Goal] = []
    host_ids = {found.host for service in goals.members if (found := world.find(service)) and found.host}
    for goal in goals.members.values():
        gpus = _given(world, goal, restarts=goal.service in goals.restarts)
        if gpus is not None:
            places[goal.service] = gpus
            resting.put(goal, gpus)
        else:
            (hosts if goal.service in host_ids else free).append(goal)
    free.sort(key=lambda goal: (-world.footprint(goal.service).vram_mb, goal.service))
    for goal in free:
        places[goal.service] = _first_fit(world, resting, goal, _allowed(world, goal, places))
        resting.put(goal, places[goal.service])
    for goal in hosts:
        over = {
            gpu for service, gpus in places.items() if world.definition(service).host == goal.service for gpu in gpus
        }
        places[goal.service] = tuple(sorted(over)) or world.gpus[:1]
        resting.put(goal, places[goal.service])
    return places, resting


def _given(world: World, goal: Goal, *, restarts: bool) -> tuple[int, ...] | None:
    """Where it must go; None when there is a choice. One that restarts goes where its definition says, if it does."""
    defined = world.definition(goal.service).gpus
    if goal.gpus:
        return goal.gpus
    if restarts and defined != "any":
        return defined
    reading = world.reading(goal.service)
    placed = world.is_alive(goal.service) and (reading.gpus or any(reading.vram_mb.values()))
    if placed or reading.state in UP:
        return world.seat(goal.service)
    return None if defined == "any" else defined


def _allowed(world: World, goal: Goal, places: Places) -> tuple[int, ...]:
    """The GPUs to choose from: a member of a host that is placed already can only go where the host is."""
    host = world.definition(goal.service).host
    return (places.get(host) if host else None) or world.gpus


def _first_fit(world: World, resting: Resting, goal: Goal, choice: tuple[int, ...]) -> tuple[int, ...]:
    if not choice:
        if world.footprint(goal.service).vram_mb == 0:
            return ()
        raise MachineLacks("no-gpu", f"service {goal.service!r} needs a GPU, and this machine has none")
    fitting = [gpu for gpu in choice if resting.room(goal, gpu) >= 0]
    for gpu in fitting:
        if resting.starts(goal, gpu):
            return (gpu,)
    return (fitting[0] if fitting else max(choice, key=lambda gpu: (resting.room(goal, gpu), -gpu)),)
