"""A solution told as a plan: steps with levels along the schedule, GPUs, turns, services, verdict and why."""

from __future__ import annotations

from gpumod.domain.footprint import Source
from gpumod.domain.mode import Want
from gpumod.domain.plan import Plan, PlanGpu, PlanService, Step, StepGpu, StepRam, Target, Turn, VerdictKind
from gpumod.domain.states import Action, State
from gpumod.planner.ids import plan_id
from gpumod.planner.schedule import Schedule, Slot
from gpumod.planner.solve import Solution
from gpumod.planner.world import DEFAULT_S, RAM, Load, World

EVERYTHING = "*"
"""The service of the last step, which verifies everything at once."""


def tell(world: World, target: Target, solution: Solution) -> Plan:
    """The plan, without alternatives."""
    steps, after = _steps(world, solution.schedule)
    turns = _turns(world, solution)
    gpus = _gpus(world, solution, turns, after)
    ram = solution.schedule.accounts[RAM]
    ram_peak_mb = _peak(world, solution, RAM)
    over = not fits(world, solution)
    if over:
        verdict = VerdictKind.DOES_NOT_FIT
    elif not steps:
        verdict = VerdictKind.NOTHING_TO_DO
    else:
        verdict = VerdictKind.FITS_TIME_SHARED if turns else VerdictKind.FITS
    services = _services(world, solution)
    return Plan(
        id=plan_id(world, steps, solution.goals.members),
        target=target,
        verdict=verdict,
        why=_why_unfit(world, gpus, services, ram.over) if over else _why_fit(verdict, gpus, turns),
        gpus=gpus,
        services=services,
        steps=steps,
        turns=turns,
        notes=tuple(dict.fromkeys([*solution.goals.notes, *_by_device(world)])),
        ram_peak_mb=ram_peak_mb,
        ram_budget_mb=_ram_budget(world, ram_peak_mb, over=bool(ram.over)),
        ram_exceeds_by_mb=ram.over,
        expected_s=round(max((step.starts_at_s + (step.expected_s or 0.0) for step in steps), default=0.0), 3),
    )


def _by_device(world: World) -> list[str]:
    """Which numbers of the plan are less certain: no process is told for them."""
    names = [service for service, reading in sorted(world.snapshot.services.items()) if any(reading.device_mb.values())]
    said = "is the device's difference: the driver does not tell what a process holds"
    return [f"what {', '.join(names)} {'hold' if len(names) > 1 else 'holds'} now {said}"] if names else []


def _ram_budget(world: World, peak_mb: int, *, over: bool) -> int:
    """The budget as it is told: with what services hold by estimate it may come to more than the machine has."""
    if over:
        return world.budgets[RAM]
    most_mb = world.snapshot.ram_total_mb - world.policy.ram_reserve_mb
    return max(min(world.budgets[RAM], most_mb), peak_mb)


def fits(world: World, solution: Solution) -> bool:
    """True where nothing is ever over its budget: on the way, in the end, in any turn."""
    turns = _turns(world, solution)
    return not solution.schedule.over and all(turn.peak_mb <= world.budgets[turn.gpu] for turn in turns)


def _peak(world: World, solution: Solution, key: int) -> int:
    """What is held at most under every interleaving: what was held, and what was drawn of the memory free then."""
    account = solution.schedule.accounts[key]
    bound = world.before[key] + account.initial
    return max(bound, world.budgets[key] + account.over) if account.over else bound


def _steps(world: World, schedule: Schedule) -> tuple[tuple[Step, ...], Load]:
    """The steps in the order of their predicted starts, with the levels that the predicted schedule leads to."""
    order = sorted(range(len(schedule.slots)), key=lambda here: (schedule.slots[here].start, here))
    number = {here: n for n, here in enumerate(order, 1)}
    events = sorted(
        [(slot.start, 1, number[here], here) for here, slot in enumerate(schedule.slots)]
        + [(slot.end, 0, number[here], here) for here, slot in enumerate(schedule.slots)]
    )
    level = dict(world.before)
    begin: dict[int, Load] = {}
    end: dict[int, Load] = {}
    for _, begins, _, here in events:
        task = schedule.slots[here].task
        touched = task.peak.keys() | task.before.keys() | set(task.placed_on)
        if begins:
            begin[here] = {key: level[key] for key in touched}
            for key in touched:
                level[key] += task.takes(key)
        else:
            for key in touched:
                level[key] -= task.gives(key)
            end[here] = {key: level[key] for key in touched}
    steps = [_step(world, schedule.slots[here], number, n, begin[here], end[here]) for here, n in number.items()]
    if steps:
        waited_for = {n for step in steps for n in step.waits_for}
        steps.append(
            Step(
                n=len(steps) + 1,
                action=Action.VERIFY,
                service=EVERYTHING,
                why="everything is as wanted",
                waits_for=tuple(step.n for step in steps if step.n not in waited_for),
                expected_s=DEFAULT_S["verify"],
                starts_at_s=round(max(slot.end for slot in schedule.slots), 3),
            )
        )
    return tuple(steps), level


def _step(world: World, slot: Slot, number: dict[int, int], n: int, begin: Load, end: Load) -> Step:
    task = slot.task
    gpus = sorted(key for key in begin if key != RAM)
    ram = None
    if RAM in begin:
        ram = StepRam(before_mb=begin[RAM], peak_mb=begin[RAM] + task.takes(RAM), after_mb=end[RAM])
    return Step(
        n=n,
        action=task.action,
        service=task.service,
        level=task.level,
        why=task.why,
        waits_for=tuple(sorted(number[other] for other in slot.waits)),
        exclusive=task.exclusive,
        placed_on=task.placed_on,
        gpus=tuple(
            StepGpu(index=gpu, before_mb=begin[gpu], peak_mb=begin[gpu] + task.takes(gpu), after_mb=end[gpu])
            for gpu in gpus
        ),
        ram=ram,
        takes_mb={gpu: task.takes(gpu) for gpu in gpus},
        gives_mb={gpu: task.gives(gpu) for gpu in gpus},
        expected_s=round(task.seconds, 3),
        expected_measured=world.measured_s(task.service, task.action.value) is not None,
        starts_at_s=round(slot.start, 3),
    )


def _turns(world: World, solution: Solution) -> tuple[Turn, ...]:
    resting = solution.resting
    sharing = [goal for goal in solution.goals.members.values() if goal.want is Want.TIME_SHARED]
    residue = {goal.service: resting.final(resting.at_rest(goal), solution.places[goal.service]) for goal in sharing}
    together: Load = {}
    for load in residue.values():
        for gpu, amount in load.items():
            together[gpu] = together.get(gpu, 0) + amount
    return tuple(
        Turn(
            service=goal.service,
            gpu=gpu,
            peak_mb=resting.idle[gpu] + resting.step_up(goal, solution.places[goal.service]).get(gpu, 0),
            residue_mb=together.get(gpu, 0) - residue[goal.service].get(gpu, 0),
        )
        for goal in sorted(sharing, key=lambda goal: goal.service)
        for gpu in solution.places[goal.service]
    )


def _gpus(world: World, solution: Solution, turns: tuple[Turn, ...], after: Load) -> tuple[PlanGpu, ...]:
    out = []
    for gpu in world.snapshot.gpus:
        account = solution.schedule.accounts[gpu.index]
        budget_mb = world.budgets[gpu.index]
        turn_mb = max((turn.peak_mb for turn in turns if turn.gpu == gpu.index), default=0)
        over_turn_mb = turn_mb - budget_mb if turn_mb else 0
        foreign_mb = world.snapshot.foreign_mb(gpu.index)
        out.append(
            PlanGpu(
                index=gpu.index,
                name=gpu.name,
                total_mb=gpu.total_mb,
                reserve_mb=world.policy.reserve_mb,
                foreign_mb=foreign_mb,
                budget_mb=budget_mb,
                before_mb=world.before[gpu.index],
                peak_mb=max(_peak(world, solution, gpu.index), turn_mb),
                after_mb=after[gpu.index],
                exceeds_by_mb=max(account.over, over_turn_mb, 0),
                unattributed_mb=min(foreign_mb, world.snapshot.unattributed_mb(gpu.index)),
            )
        )
    return tuple(out)


def _services(world: World, solution: Solution) -> tuple[PlanService, ...]:
    goals = solution.goals

    def row(service: str, wanted: str, gpus: tuple[int, ...], why: str, after: Load) -> PlanService:
        foot = world.footprint(service)
        return PlanService(
            id=service,
            wanted=wanted,
            vram_mb=foot.vram_mb,
            source=foot.source if service in world.footprints else Source.DECLARED,
            gpus=gpus,
            why=why,
            before_mb=_on_gpus(world.now(service)),
            after_mb=_on_gpus(after),
        )

    rows = []
    for goal in sorted(goals.members.values(), key=lambda goal: goal.service):
        wanted = "awake" if goal.state is State.RUNNING else goal.want.value
        gpus = solution.places[goal.service]
        final = solution.resting.final(goal, gpus)
        rows.append(row(goal.service, wanted, gpus, goal.why, final))
    rows += [row(name, "kept", world.seat(name), "stays up", world.now(name)) for name in goals.kept(world)]
    rows += [row(name, "stopped", world.seat(name), why, {}) for name, why in sorted(goals.stops.items())]
    return tuple(rows)


def _on_gpus(load: Load) -> Load:
    return {gpu: held_mb for gpu, held_mb in load.items() if gpu != RAM and held_mb}


def _why_fit(verdict: VerdictKind, gpus: tuple[PlanGpu, ...], turns: tuple[Turn, ...]) -> str:
    if verdict is VerdictKind.NOTHING_TO_DO:
        return "everything is as wanted"
    used = [gpu for gpu in gpus if gpu.peak_mb] or gpus
    tightest = min(used, key=lambda gpu: gpu.budget_mb - gpu.peak_mb, default=None)
    if tightest is None:
        return "it needs no GPU memory"
    sharers = len({turn.service for turn in turns})
    peak = f"GPU {tightest.index} holds at most {tightest.peak_mb} of {tightest.budget_mb} MiB"
    return f"{peak}; {sharers} services take turns" if turns else peak


def _why_unfit(world: World, gpus: tuple[PlanGpu, ...], services: tuple[PlanService, ...], ram_over_mb: int) -> str:
    parts = []
    for gpu in gpus:
        if gpu.exceeds_by_mb:
            on = [row for row in services if gpu.index in row.gpus and row.wanted != "stopped" and row.vram_mb]
            names = ", ".join(_share(row) for row in sorted(on, key=lambda row: -row.vram_mb)[:5])
            more = f" and {len(on) - 5} more" if len(on) > 5 else ""
            others_mb = gpu.foreign_mb - gpu.unattributed_mb
            foreign = f"; other processes hold {others_mb} MiB" if others_mb else ""
            if gpu.unattributed_mb:
                foreign += f"; {gpu.unattributed_mb} MiB are unattributed (no known process holds them)"
            leases = [f"{lease.holder} holds {lease.vram_mb} MiB" for lease in world.leases if lease.gpu == gpu.index]
            foreign += "".join(f"; {lease}" for lease in leases)
            parts.append(
                f"GPU {gpu.index} would hold {gpu.peak_mb} MiB, {gpu.exceeds_by_mb} MiB more than {_budget(gpu)}"
                f"{f', with {names}{more}' if names else ''}{foreign}"
            )
    if ram_over_mb:
        parts.append(f"host RAM is short by {ram_over_mb} MiB of a budget of {world.budgets[RAM]} MiB")
    return "; ".join(parts)


def _budget(gpu: PlanGpu) -> str:
    if gpu.budget_mb >= 0:
        return f"its budget of {gpu.budget_mb} MiB"
    return f"it has: what others hold, leases and the reserve are {-gpu.budget_mb} MiB more than the whole card"


def _share(row: PlanService) -> str:
    return f"{row.id} {row.vram_mb}" if row.wanted in ("awake", "kept") else f"{row.id} {row.vram_mb} ({row.wanted})"
