"""The schedule: tasks in order of rank, each as early as its needs and the memory allow. Sound by construction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpumod.domain.states import Action
from gpumod.planner.account import Account
from gpumod.planner.tasks import Task, Tasks
from gpumod.planner.world import RAM, Load


@dataclass(slots=True, eq=False)
class Slot:
    """One task in the schedule; `waits` are the positions of the slots that must be done before it."""

    task: Task
    waits: list[int]
    start: float
    end: float


@dataclass(slots=True)
class Schedule:
    """`no_ram` are the services that host RAM does not suffice to put to sleep."""

    accounts: dict[int, Account]
    slots: list[Slot] = field(default_factory=list)
    no_ram: set[str] = field(default_factory=set)

    @property
    def over(self) -> int:
        """MiB by which it does not fit, over all resources."""
        return sum(account.over for account in self.accounts.values())


class _Gate:
    """Exclusive tasks of one GPU, in both directions: they wait for all before, all after wait for them."""

    def __init__(self) -> None:
        self.last: list[int] = []
        self.since: list[int] = []

    def enter(self, position: int, *, exclusive: bool) -> list[int]:
        if not exclusive:
            self.since.append(position)
            return self.last
        waits = self.last + self.since
        self.last, self.since = [position], []
        return waits


def make_schedule(tasks: Tasks, rank: Iterable[str], budgets: Mapping[int, int], before: Load) -> Schedule:
    """Give every task its time and its memory: stops, sleeps, then the members in `rank`.

    Where memory does not suffice, the step is an overdraft that waits for all that is given back before it.
    """
    out = Schedule({key: Account(budgets[key], before[key]) for key in budgets})
    gates = {key: _Gate() for key in budgets if key != RAM}
    position: dict[int, int] = {}
    reached: list[int] = []
    ordered = [*tasks.stops, *tasks.sleeps, *(task for service in rank for task in tasks.starts.get(service, ()))]
    for here, task in enumerate(ordered):
        waits = {position[id(need)] for need in task.needs}
        touched = task.peak.keys() | task.before.keys()
        for gpu in (touched | set(task.placed_on)) - {RAM}:
            if task.takes(gpu) or task.gives(gpu) or (task.exclusive and gpu in task.placed_on):
                waits.update(gates[gpu].enter(here, exclusive=task.exclusive))
        start = max((out.slots[other].end for other in waits), default=0.0)
        drawn = {key: task.takes(key) for key in touched}
        if task.action is Action.SLEEP and drawn.get(RAM, 0) > out.accounts[RAM].free:
            out.no_ram.add(task.service)
            drawn[RAM] = 0
        start = max([start, *(out.accounts[key].ready_at(need) for key, need in drawn.items())])
        for key, need in drawn.items():
            waits |= out.accounts[key].draw(need, start)
        start = max((out.slots[other].end for other in waits), default=0.0)
        end = start + task.seconds
        for key in touched:
            out.accounts[key].give(task.gives(key), here, end)
        position[id(task)] = here
        out.slots.append(Slot(task, _reduced(waits, reached), start, end))
        reached.append((1 << here) | _union(reached, out.slots[-1].waits))
    return out


def _union(reached: list[int], waits: list[int]) -> int:
    bits = 0
    for other in waits:
        bits |= reached[other]
    return bits


def _reduced(waits: set[int], reached: list[int]) -> list[int]:
    """`waits` without those that others of them wait for anyway. `reached` holds each slot's ancestors, as bits."""
    kept: list[int] = []
    covered = 0
    for other in sorted(waits, reverse=True):
        if not covered >> other & 1:
            kept.append(other)
            covered |= reached[other]
    return sorted(kept)
