"""What holds for every plan, under every interleaving that it allows."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gpumod.domain.errors import GpumodError
from gpumod.domain.plan import Plan, Target, VerdictKind
from gpumod.domain.states import ALIVE, Action, State
from gpumod.planner import make_plan, target_of
from gpumod.testing.replay import RAM, Replay
from gpumod.testing.strategies import Scene, scenes, targets

UP = (State.RUNNING, State.SLEEPING)
AWAKE = (State.RUNNING, State.STARTING, State.UNHEALTHY, State.UNKNOWN)
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def plan_of(scene: Scene, target: Target | None = None) -> Plan:
    return make_plan(scene.snapshot, target or scene.target, scene.services, scene.footprints, policy=scene.policy)


def planned(scene: Scene) -> Plan:
    """The scene's plan; scenes that are refused (dependents, ports) say nothing about plans."""
    try:
        return plan_of(scene)
    except GpumodError:
        assume(False)
        raise


def replay_of(scene: Scene, plan: Plan) -> Replay:
    return Replay(scene.snapshot, scene.services, scene.footprints, plan)


def act(replay: Replay, chance: random.Random) -> int:
    """One random event: a step begins, or one that runs is done. Returns the step that began, else 0."""
    ready = replay.ready()
    if ready and (not replay.running or chance.random() < 0.6):
        n = chance.choice(ready).n
        replay.begin(n)
        return n
    replay.end(chance.choice(sorted(replay.running)))
    return 0


def budgets(scene: Scene, plan: Plan) -> dict[int, int]:
    return {gpu.index: gpu.budget_mb for gpu in plan.gpus} | {RAM: plan.ram_budget_mb}


def peaks(plan: Plan) -> dict[int, int]:
    return {gpu.index: gpu.peak_mb for gpu in plan.gpus} | {RAM: plan.ram_peak_mb}


def finish(replay: Replay, chance: random.Random) -> None:
    while not replay.is_over:
        act(replay, chance)


# --- memory -----------------------------------------------------------------------------------------------------


Node = tuple[str, int]


def most_flow(room: dict[Node, dict[Node, int]], source: Node, sink: Node) -> int:
    """The largest flow from `source` to `sink`, by shortest augmenting paths."""
    flow = 0
    while True:
        came: dict[Node, Node] = {source: source}
        queue = deque([source])
        while queue and sink not in came:
            here = queue.popleft()
            for there, mb in room[here].items():
                if mb > 0 and there not in came:
                    came[there] = here
                    queue.append(there)
        if sink not in came:
            return flow
        path, here = [], sink
        while here != source:
            path.append((came[here], here))
            here = came[here]
        least = min(room[a][b] for a, b in path)
        for a, b in path:
            room[a][b] -= least
            room[b][a] += least
        flow += least


def most_ever(plan: Plan, before_mb: int, takes: dict[int, int], gives: dict[int, int]) -> int:
    """The exact maximum of what is held at any instant of any interleaving: a maximum-weight closure (min cut).

    "Begun" of a step weighs what it takes, "done" what it gives back; done needs begun, begun needs the done of all
    that it waits for.
    """
    steps = [step for step in plan.steps if step.action is not Action.VERIFY]
    source: Node = ("source", 0)
    sink: Node = ("sink", 0)
    room: dict[Node, dict[Node, int]] = {source: {}, sink: {}}

    def edge(a: Node, b: Node, mb: int) -> None:
        room.setdefault(a, {})[b] = mb
        room.setdefault(b, {}).setdefault(a, 0)

    for step in steps:
        edge(source, ("begun", step.n), takes[step.n])
        edge(("done", step.n), sink, gives[step.n])
        edge(("done", step.n), ("begun", step.n), 10**9)
        for other in step.waits_for:
            edge(("begun", step.n), ("done", other), 10**9)
    flow = most_flow(room, source, sink)
    return before_mb + sum(takes[step.n] for step in steps) - flow


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(scenes())
def test_no_interleaving_holds_more_than_the_peak(scene: Scene) -> None:
    plan = planned(scene)
    for gpu in plan.gpus:
        takes = {step.n: step.takes_mb.get(gpu.index, 0) for step in plan.steps}
        gives = {step.n: step.gives_mb.get(gpu.index, 0) for step in plan.steps}
        most = most_ever(plan, gpu.before_mb, takes, gives)
        if plan.fits:
            assert most <= gpu.peak_mb
            assert gpu.peak_mb <= max(gpu.budget_mb, gpu.before_mb)
            assert gpu.exceeds_by_mb == 0
    ram_takes = {step.n: step.ram.peak_mb - step.ram.before_mb if step.ram else 0 for step in plan.steps}
    replay = replay_of(scene, plan)
    before_mb = replay.total(RAM)
    # what a step gives back of host RAM is not in the plan; it is what the machine on paper does
    ram_gives = dict.fromkeys(ram_takes, 0)
    while not replay.is_over:
        n = replay.ready()[0].n
        replay.begin(n)
        begun_mb = replay.total(RAM)
        replay.end(n)
        ram_gives[n] = begun_mb - replay.total(RAM)
    if plan.fits:
        assert most_ever(plan, before_mb, ram_takes, ram_gives) <= plan.ram_peak_mb
        assert plan.ram_peak_mb <= max(plan.ram_budget_mb, before_mb)


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(scenes(), st.randoms(use_true_random=False))
def test_every_instant_of_an_interleaving_keeps_the_promises(scene: Scene, chance: random.Random) -> None:
    plan = planned(scene)
    assume(plan.fits)
    replay = replay_of(scene, plan)
    limit, peak = budgets(scene, plan), peaks(plan)
    start = {key: replay.total(key) for key in limit}
    sharing = {row.id for row in plan.services if row.wanted == "time-shared"}
    awake_at_first = {s for s in sharing if replay.state(s) in AWAKE}
    was_up = {service: replay.state(service) in ALIVE for service in scene.services}
    while not replay.is_over:
        n = act(replay, chance)
        for key, most in peak.items():
            assert replay.total(key) <= max(most, start[key])
            if n and key != RAM and replay.steps[n].takes_mb.get(key, 0):
                assert replay.total(key) <= limit[key]
        check_dependencies(scene, replay, was_up)
        check_exclusives(replay, limit)
        awake_at_first = {s for s in awake_at_first if replay.state(s) in {*AWAKE, State.STOPPING}}
        awake = {s for s in sharing if replay.state(s) in AWAKE} | awake_at_first
        awake |= {step.service for n in replay.running if (step := replay.steps[n]).action is Action.WAKE} & sharing
        assert len(awake - awake_at_first) <= (0 if awake_at_first else 1)
    for gpu in plan.gpus:
        assert replay.total(gpu.index) == gpu.after_mb


def check_dependencies(scene: Scene, replay: Replay, was_up: dict[str, bool]) -> None:
    """A service is up only while what it needs is up; what was down before may still be."""
    for service, definition in scene.services.items():
        was_up[service] |= replay.state(service) in ALIVE
        acting = {replay.steps[n].service for n in replay.running if replay.steps[n].action is Action.START}
        if replay.state(service) in ALIVE:
            for need in definition.needs:
                assert not was_up[need] or replay.state(need) in ALIVE
        if service in acting:
            assert all(replay.state(need) in UP for need in definition.needs)


def check_exclusives(replay: Replay, limit: dict[int, int]) -> None:
    for n in replay.running:
        step = replay.steps[n]
        if step.exclusive:
            for other in (replay.steps[m] for m in replay.running - {n}):
                for gpu in step.placed_on:
                    assert not other.takes_mb.get(gpu, 0)
                    assert not other.gives_mb.get(gpu, 0)
                    assert not (other.exclusive and gpu in other.placed_on)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_target_is_reached_and_is_a_fixed_point(scene: Scene, chance: random.Random) -> None:
    plan = planned(scene)
    replay = replay_of(scene, plan)
    finish(replay, chance)
    level = {"awake": State.RUNNING, "stopped": State.STOPPED}
    for row in plan.services:
        if row.wanted in level:
            assert replay.state(row.id) == level[row.wanted]
        elif row.wanted != "kept":
            assert replay.state(row.id) in (State.SLEEPING, State.STOPPED, State.FAILED)
            if scene.services[row.id].supports_sleep and not plan.notes:
                assert replay.state(row.id) == State.SLEEPING
    target = scene.target.model_copy(update={"restart": ()})
    again = make_plan(replay.observe(), target, scene.services, scene.footprints, policy=scene.policy)
    assert again.steps == ()
    if plan.fits:
        assert again.verdict is VerdictKind.NOTHING_TO_DO


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(scenes())
def test_start_order_is_kept(scene: Scene) -> None:
    plan = planned(scene)
    orders = {member.service: member.start_order for member in scene.target.members}
    needed = {need for service in scene.services.values() for need in service.needs}
    before: dict[int, set[int]] = {}
    for step in plan.steps:
        before[step.n] = set(step.waits_for).union(*(before[n] for n in step.waits_for))
    begins = [step for step in plan.steps if step.action in (Action.START, Action.WAKE)]
    for late in begins:
        for early in begins:
            both = {late.service, early.service} <= orders.keys() and late.service not in needed
            if both and orders[early.service] < orders[late.service]:
                assert early.n in before[late.n]


# --- again from half-way ----------------------------------------------------------------------------------------


def settled(scene: Scene) -> Scene | None:
    """The scene, on a machine that the planner itself brought into the state that the first target wants."""
    try:
        plan = plan_of(scene)
    except GpumodError:
        return None
    if not plan.fits:
        return None
    replay = replay_of(scene, plan)
    finish(replay, random.Random(0))
    return replace(scene, snapshot=replay.observe())


def half_way(scene: Scene, plan: Plan, chance: random.Random) -> Scene:
    """The scene as it is found when the plan's execution ends at a random instant."""
    replay = replay_of(scene, plan)
    for _ in range(chance.randrange(2 * len(replay.steps) + 1)):
        act(replay, chance)
    return replace(scene, snapshot=replay.observe())


@st.composite
def switches(draw: st.DrawFn) -> Scene:
    """A machine in one mode, and another mode that is wanted."""
    first = draw(scenes(empty=True, pins=False))
    scene = settled(first)
    assume(scene is not None)
    assert scene is not None
    target = draw(targets(first.services)).model_copy(update={"restart": ()})
    return replace(scene, target=target)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(switches(), st.randoms(use_true_random=False))
def test_resume_from_any_prefix_reaches_the_target(scene: Scene, chance: random.Random) -> None:
    plan = planned(scene)
    assume(plan.fits)
    full = replay_of(scene, plan)
    finish(full, chance)
    middle = half_way(scene, plan, chance)
    again = planned(middle)
    assert again.fits, again.why
    rest = replay_of(middle, again)
    finish(rest, chance)
    for row in plan.services:
        if not (plan.notes or again.notes):
            assert rest.state(row.id) == full.state(row.id), row.id


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(switches(), st.randoms(use_true_random=False))
def test_rollback_from_any_prefix_brings_back_what_was_there(scene: Scene, chance: random.Random) -> None:
    plan = planned(scene)
    assume(plan.fits)
    back = target_of(scene.snapshot.services, scene.services)
    empty = scene.snapshot.model_copy(
        update={
            "services": {},
            "gpus": tuple(
                g.model_copy(update={"used_mb": scene.snapshot.foreign_mb(g.index)}) for g in scene.snapshot.gpus
            ),
        }
    )
    assume(make_plan(empty, back, scene.services, scene.footprints, policy=scene.policy).fits)
    middle = half_way(scene, plan, chance)
    way = make_plan(middle.snapshot, back, scene.services, scene.footprints, policy=scene.policy)
    assert way.fits, way.why
    rest = replay_of(middle, way)
    finish(rest, chance)
    if not way.notes:
        for service in scene.services:
            was = scene.snapshot.reading(service)
            assert rest.state(service) == was.state
            if was.state in UP:
                assert set(rest.papers[service].gpus) == set(was.gpus)
