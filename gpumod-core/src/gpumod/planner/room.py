"""Making room: the cheapest services to put to sleep or to stop so that so much of a GPU is free. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from gpumod.domain.errors import DoesNotFit, GpumodError, UnknownName
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Lease, Plan, Policy, Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import Action, State
from gpumod.planner.goals import protected
from gpumod.planner.make import make_plan
from gpumod.planner.world import World

MOST = 9
"""So many of the largest services are weighed against each other; the others go only where all have to."""
TRIES = 30

Way = Literal["sleep", "stop"]
Choice = Mapping[str, Way]


@dataclass(frozen=True)
class Room:
    """Where there is room, the target that makes it, and its plan. `short_mb` is what is missing all the same."""

    gpu: int
    target: Target
    plan: Plan
    short_mb: int = 0


def make_room(
    snapshot: HostSnapshot,
    services: Mapping[str, Service],
    footprints: Mapping[str, Footprint],
    mb: int,
    gpu: int | None = None,
    *,
    leases: Iterable[Lease] = (),
    policy: Policy,
    force: bool = False,
) -> Room:
    """The cheapest way to have `mb` MiB of `gpu` (of None: of any) free for somebody, beside the reserve.

    Services are rather put to sleep than stopped, then those that come back soonest are taken; pinned, adopted and
    leased ones, and what they need, stay. With `force` it makes as much room as there is.

    Raises DoesNotFit `no-room`, which names what stays, and UnknownName `unknown-gpu`.
    """
    held = tuple(leases)
    world = World(snapshot, services, footprints, held, policy)
    if not world.gpus or (gpu is not None and gpu not in world.gpus):
        have = ", ".join(map(str, world.gpus)) or "none"
        said = "no GPU" if gpu is None else f"no GPU {gpu}"
        raise UnknownName("unknown-gpu", f"there is {said}", why=f"the machine has: {have}", hint="see gpumod status")
    gpus = world.gpus if gpu is None else (gpu,)
    found = sorted(
        (_cost(world, choice, index), index, n, choice)
        for index in gpus
        for n, choice in enumerate(_choices(world, index, mb))
    )
    tries = [(index, choice) for _, index, _, choice in found[:TRIES]]
    tries += [(index, _everything(world, index)) for index in gpus]
    for index, choice in tries:
        room = _planned(world, index, choice, mb, held)
        if room is not None and room.short_mb <= 0:
            return room
    best = min(gpus, key=lambda index: (_short_mb(world, index, mb), index))
    forced = _planned(world, best, _everything(world, best), mb, held) if force else None
    if forced is None:
        raise _no_room(world, best, mb)
    return forced


def _free_mb(world: World, gpu: int) -> int:
    return world.budgets[gpu] - world.before[gpu]


def _takeable(world: World, gpu: int) -> list[str]:
    """What holds memory of `gpu` and may be put away, the largest first."""
    kept = protected(world, Target())
    held = {s: mb for s in world.alive if s not in kept and (mb := world.now(s).get(gpu, 0))}
    return sorted(held, key=lambda service: (-held[service], service))


def _ways(world: World, service: str) -> tuple[Way, ...]:
    can_sleep = world.state(service) is State.RUNNING and world.definition(service).supports_sleep
    return ("sleep", "stop") if can_sleep else ("stop",)


def _choices(world: World, gpu: int, mb: int) -> Iterator[dict[str, Way]]:
    """Every way to have enough by sleeping and stopping, with what depends on what goes."""
    services = _takeable(world, gpu)[:MOST]
    options: list[tuple[Way | None, ...]] = [(None, *_ways(world, service)) for service in services]
    seen: set[tuple[tuple[str, Way], ...]] = set()
    for ways in product(*options):
        choice = _closed(world, {s: way for s, way in zip(services, ways, strict=True) if way})
        key = tuple(sorted(choice.items()))
        if key not in seen and _gain_mb(world, choice, gpu) + _free_mb(world, gpu) >= mb:
            seen.add(key)
            yield choice


def _closed(world: World, choice: dict[str, Way]) -> dict[str, Way]:
    """With those up that need one that goes: they go too, and stop where it stops."""
    waiting = list(choice)
    while waiting:
        service = waiting.pop()
        for dependent in world.dependents.get(service, ()):
            asleep = choice[service] == "sleep" and world.state(dependent) is State.SLEEPING
            way: Way = choice[service] if "sleep" in _ways(world, dependent) else "stop"
            if not asleep and choice.get(dependent) not in (way, "stop"):
                choice[dependent] = way
                waiting.append(dependent)
    return choice


def _everything(world: World, gpu: int) -> dict[str, Way]:
    return _closed(world, dict.fromkeys(_takeable(world, gpu), "stop"))


def _gain_mb(world: World, choice: Choice, gpu: int) -> int:
    gain = 0
    for service, way in choice.items():
        left = world.asleep(service, world.seat(service)).get(gpu, 0) if way == "sleep" else 0
        gain += max(0, world.now(service).get(gpu, 0) - left)
    return gain


def _cost(world: World, choice: Choice, gpu: int) -> tuple[int, float, int, int, tuple[str, ...]]:
    """Fewest stops first, then the seconds that going and coming back take, then the fewest services, then the MiB."""
    seconds = 0.0
    for service, way in choice.items():
        actions = ("sleep", "wake") if way == "sleep" else ("stop", "start")
        seconds += sum(world.seconds(service, action) for action in actions)
    stops = sum(way == "stop" for way in choice.values())
    return stops, round(seconds, 3), len(choice), _gain_mb(world, choice, gpu), tuple(sorted(choice))


def _planned(world: World, gpu: int, choice: Choice, mb: int, held: tuple[Lease, ...]) -> Room | None:
    """The plan of a choice, with what is missing when it is done; None where it cannot be."""
    target = Target(
        members=tuple(TargetMember(service=s, want=Want.ASLEEP) for s, way in sorted(choice.items()) if way == "sleep"),
        stop=tuple(s for s, way in sorted(choice.items()) if way == "stop"),
        stop_others=False,
    )
    wanted = Lease(id="wanted", holder="this", gpu=gpu, vram_mb=mb)
    policy = world.policy.model_copy(update={"cascade": True, "alternatives": False})
    try:
        plan = make_plan(
            world.snapshot, target, world.services, world.footprints, leases=(*held, wanted), policy=policy
        )
    except GpumodError:
        return None
    if any(step.action in (Action.START, Action.WAKE) for step in plan.steps):
        return None  # what sleeps keeps what it needs up: nothing is started to make room
    row = next(row for row in plan.gpus if row.index == gpu)
    return Room(gpu, target, plan, row.after_mb - row.budget_mb)


def _short_mb(world: World, gpu: int, mb: int) -> int:
    return mb - _free_mb(world, gpu) - _gain_mb(world, _everything(world, gpu), gpu)


def _no_room(world: World, gpu: int, mb: int) -> DoesNotFit:
    """Why there is not enough, though everything that may go were stopped."""
    short_mb = _short_mb(world, gpu, mb)
    gone = _everything(world, gpu)
    kept = protected(world, Target())
    here = {s: held_mb for s in world.alive if s not in gone and (held_mb := world.now(s).get(gpu))}
    stays = [f"{s} {held_mb} ({kept.get(s, 'stays up')})" for s, held_mb in here.items()]
    stays += [
        f"{p.name} (pid {p.pid}) {p.vram_mb if p.vram_mb is not None else '?'}"
        for p in world.snapshot.processes
        if p.gpu == gpu and p.service is None
    ]
    unnamed = world.snapshot.unattributed_mb(gpu)
    stays += [f"unattributed {unnamed}"] if unnamed else []
    stays += [f"{lease.holder} {lease.vram_mb}" for lease in world.leases if lease.gpu == gpu and lease.vram_mb]
    total_mb = world.snapshot.gpu(gpu).total_mb
    return DoesNotFit(
        "no-room",
        f"GPU {gpu} can give at most {max(0, mb - short_mb)} of {mb} MiB: {short_mb} MiB are missing",
        why=f"of its {total_mb} MiB stay: {', '.join([*stays, f'the reserve {world.policy.reserve_mb}'])}",
        hint="ask for less, or end or unpin what stays; --force makes as much room as there is",
        exceeds_by_mb=short_mb,
        gpu=gpu,
    )
