"""Alternatives are true: each, applied and planned, fits."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gpumod.domain.errors import GpumodError, UnknownName, UsageError
from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.machine import GpuReading, HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import AlternativeKind, Changes, Plan, Policy, Target, TargetMember, Variant, VerdictKind
from gpumod.domain.service import Service
from gpumod.planner import apply_changes, make_plan
from gpumod.planner.changes import apply_to_footprints
from gpumod.testing.strategies import Scene, scenes

CODE = Service(
    id="glm-code", driver="llamacpp", port=8002, vram_mb=19100, context_size=32768, kv_cache_per_1k=170,
    sleep_mode="router", asleep_mb=600,
)  # fmt: skip
SERVICES = {
    found.id: found
    for found in (
        CODE,
        Service(id="embedding-code", driver="vllm", port=8001, vram_mb=2500),
        Service(id="reranker", driver="vllm", port=8003, vram_mb=6000, role="reranker", sleep_mode="l1"),
        Service(id="reranker-base", driver="vllm", port=8004, vram_mb=1500, role="reranker"),
    )
}
TARGET = Target(mode="code", members=tuple(TargetMember(service=s) for s in ("embedding-code", "glm-code", "reranker")))
KV = Variant(kind=AlternativeKind.KV_TYPE, title="KV cache as q8_0", unit_vars={"kv_type": "q8_0"}, saves_mb=2600)
OFFLOAD = Variant(
    kind=AlternativeKind.CPU_OFFLOAD, title="8 layers on the CPU", unit_vars={"n": 8}, saves_mb=4000, cost=6
)


def card(total_mb: int = 24564) -> HostSnapshot:
    gpu = GpuReading(index=0, name="card", total_mb=total_mb, used_mb=0, free_mb=total_mb)
    return HostSnapshot(at=0, gpus=(gpu,), ram_total_mb=64000, ram_available_mb=64000)


def plan(total_mb: int = 24564, **more: object) -> Plan:
    footprints = more.pop("footprints", {})
    return make_plan(card(total_mb), TARGET, SERVICES, footprints, **more)  # type: ignore[arg-type]  # test shorthand


def kinds(made: Plan) -> set[AlternativeKind]:
    return {alternative.kind for alternative in made.alternatives}


def test_the_example_offers_every_kind_that_fits() -> None:
    made = plan(variants={"glm-code": (KV, OFFLOAD)})
    assert kinds(made) >= {
        AlternativeKind.TIME_SHARE,
        AlternativeKind.CONTEXT,
        AlternativeKind.SMALLER_PRESET,
        AlternativeKind.CPU_OFFLOAD,
        AlternativeKind.LEAVE_OUT,
        AlternativeKind.COMBINATION,
    }
    assert AlternativeKind.KV_TYPE not in kinds(made), "2600 MiB do not suffice alone"
    assert len(made.alternatives) <= 12
    assert made.alternatives[-1].kind is AlternativeKind.LEAVE_OUT
    assert [a.cost for a in made.alternatives] == sorted(a.cost for a in made.alternatives)
    assert len({a.id for a in made.alternatives}) == len(made.alternatives)


def test_the_largest_context_that_fits_is_found_and_16k_is_not_claimed() -> None:
    contexts = [a for a in plan().alternatives if a.kind is AlternativeKind.CONTEXT]
    assert [dict(a.changes.context_size) for a in contexts] == [{"glm-code": 11264}]
    for tokens, fits in ((11264, True), (12288, False), (16384, False)):
        target, services = apply_changes(TARGET, SERVICES, Changes(context_size={"glm-code": tokens}))
        assert make_plan(card(), target, services, {}, policy=Policy(alternatives=False)).fits is fits


def test_pairs_are_tried_where_one_is_not_enough() -> None:
    made = plan(21_100, variants={"glm-code": (KV,)})
    pairs = [a for a in made.alternatives if a.kind is AlternativeKind.COMBINATION]
    assert pairs
    assert any("reranker-base" in a.title and "q8_0" in a.title for a in pairs)


def test_what_the_user_s_options_decide_does_not_shrink_with_its_context() -> None:
    foot = Footprint(service="glm-code", vram_mb=19100, start_peak_mb=19100, sources={"vram_mb": Source.EXPLICIT})
    assert AlternativeKind.CONTEXT not in kinds(plan(footprints={"glm-code": foot}))


def test_nothing_is_offered_where_it_fits_or_where_it_is_not_asked_for() -> None:
    assert plan(32768).alternatives == ()
    assert plan(policy=Policy(alternatives=False)).alternatives == ()


def test_ids_are_stable() -> None:
    assert [a.id for a in plan().alternatives] == [a.id for a in plan().alternatives]


def test_changes_are_applied() -> None:
    changes = Changes(
        time_share=("glm-code",),
        context_size={"glm-code": 16384},
        unit_vars={"glm-code": {"kv_type": "q8_0"}},
        replace={"reranker": "reranker-base"},
        leave_out=("embedding-code",),
    )
    target, services = apply_changes(TARGET, SERVICES, changes)
    assert [(m.service, m.want) for m in target.members] == [
        ("glm-code", Want.TIME_SHARED),
        ("reranker-base", Want.AWAKE),
    ]
    assert target.restart == ("glm-code",)
    assert services["glm-code"].context_size == 16384
    assert services["glm-code"].vram_mb == 19100 - 2785
    assert services["glm-code"].unit_vars == {"kv_type": "q8_0"}
    assert SERVICES["glm-code"].context_size == 32768


def test_a_changed_service_that_nobody_wants_does_not_restart() -> None:
    target, _ = apply_changes(Target(members=TARGET.members[:1]), SERVICES, Changes(context_size={"glm-code": 8192}))
    assert target.restart == ()


def test_bad_changes_are_refused() -> None:
    with pytest.raises(UnknownName):
        apply_changes(TARGET, SERVICES, Changes(replace={"reranker": "nope"}))
    with pytest.raises(UsageError) as caught:
        apply_changes(TARGET, SERVICES, Changes(context_size={"reranker": 2048}))
    assert caught.value.code == "bad-changes"


@pytest.mark.parametrize(("measured_mb", "tokens"), [(18000, 17408), (19100, 11264), (20000, 6144)])
def test_a_context_is_found_and_taken_by_the_same_numbers(measured_mb: int, tokens: int) -> None:
    foot = Footprint(
        service="glm-code",
        vram_mb=measured_mb,
        start_peak_mb=measured_mb,
        asleep_mb=600,
        sources={"vram_mb": Source.MEASURED},
    )

    def declared(service: Service) -> Footprint:
        return Footprint(service=service.id, vram_mb=service.vram_mb, start_peak_mb=service.vram_mb)

    made = plan(footprints={"glm-code": foot}, footprint_of=declared)
    context = next(a for a in made.alternatives if a.kind is AlternativeKind.CONTEXT)
    assert dict(context.changes.context_size) == {"glm-code": tokens}
    for more, fits in ((0, True), (1024, False)):
        changes = context.changes.model_copy(
            update={
                "context_size": {"glm-code": tokens + more},
                "vram_mb": {"glm-code": context.changes.vram_mb["glm-code"] + (more and 175)},
            }
        )
        target, services = apply_changes(TARGET, SERVICES, changes)
        known = {"glm-code": declared(services["glm-code"])}
        taken = make_plan(card(), target, services, known, policy=Policy(alternatives=False))
        assert taken.fits is fits
        assert (taken.gpus[0].peak_mb == context.peak_mb) is fits


def test_what_no_change_makes_smaller_is_not_offered_smaller() -> None:
    def explicit(service: Service) -> Footprint:
        return Footprint(service=service.id, vram_mb=19100, start_peak_mb=19100, sources={"vram_mb": Source.EXPLICIT})

    made = plan(variants={"glm-code": (OFFLOAD,)}, footprint_of=explicit)
    assert made.alternatives
    assert not [a for a in made.alternatives if a.changes.vram_mb or a.changes.context_size]


def test_an_alternative_restarts_what_was_edited_with_its_stored_definition() -> None:
    edited = SERVICES["glm-code"].model_copy(update={"kv_cache_per_1k": 340.0})
    asked: list[Service] = []

    def declared(service: Service) -> Footprint:
        asked.append(service)
        return Footprint(service=service.id, vram_mb=service.vram_mb, start_peak_mb=service.vram_mb)

    made = plan(stored={"glm-code": edited}, footprint_of=declared)
    assert {service.kv_cache_per_1k for service in asked} == {340.0}
    context = next(a for a in made.alternatives if a.kind is AlternativeKind.CONTEXT)
    target, services = apply_changes(TARGET, {**SERVICES, "glm-code": edited}, context.changes)
    assert make_plan(card(), target, services, {}, policy=Policy(alternatives=False)).fits


def test_what_if_contexts_make_other_alternatives() -> None:
    """`simulate --context` and a plain `simulate` offer what is worded alike, and is not the same."""
    plain = make_plan(card(), TARGET, SERVICES, {})
    asked = TARGET.model_copy(update={"context": {"glm-code": 30_000}})
    what_if = make_plan(card(), asked, SERVICES, {})
    assert plain.alternatives
    assert not {a.id for a in plain.alternatives} & {a.id for a in what_if.alternatives}
    assert all(a.title.endswith("(asked for: a context of glm-code at 30000)") for a in what_if.alternatives)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenes(most=5), st.integers(500, 4000))
def test_every_alternative_fits_when_it_is_taken(scene: Scene, saves_mb: int) -> None:
    variants = {service: (KV.model_copy(update={"saves_mb": saves_mb}),) for service in scene.services}
    policy = scene.policy.model_copy(update={"alternatives": True})
    try:
        made = make_plan(
            scene.snapshot, scene.target, scene.services, scene.footprints, policy=policy, variants=variants
        )
    except GpumodError:
        assume(False)
        raise
    assume(made.alternatives)
    for alternative in made.alternatives:
        target, services = apply_changes(scene.target, scene.services, alternative.changes)
        footprints = apply_to_footprints(scene.footprints, scene.services, alternative.changes)
        up = {s: scene.footprints[s] for s in scene.snapshot.services if s in scene.footprints}
        taken = make_plan(scene.snapshot, target, services, footprints, policy=scene.policy, as_launched=up)
        assert taken.fits
        assert taken.verdict is alternative.verdict
        assert max(gpu.peak_mb for gpu in taken.gpus) == alternative.peak_mb
    assert made.verdict is VerdictKind.DOES_NOT_FIT


def test_taking_turns_is_one_group_and_one_alternative() -> None:
    """Two pairs that take turns would be all four of them: no two alternatives have one id."""
    four = {f"s{n}": Service(id=f"s{n}", driver="vllm", port=8100 + n, vram_mb=9000, sleep_mode="l1") for n in range(4)}
    target = Target(mode="four", members=tuple(TargetMember(service=s) for s in four))
    ids = [alternative.id for alternative in make_plan(card(), target, four, {}).alternatives]
    assert ids
    assert len(ids) == len(set(ids))
