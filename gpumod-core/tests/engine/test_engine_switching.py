"""A change that goes well: it ends where the target says, stays within the plan's peak, and is done once."""

from __future__ import annotations

import itertools

import pytest

from gpumod.domain.errors import Failed
from gpumod.domain.mode import Want
from gpumod.domain.run import RunStatus, StepStatus
from gpumod.testing.world_drivers import world_mode, world_service

SERVICES = (
    world_service("embed", 2500, 9000, naps=True),
    world_service("code", 14_000, 9001, peak_mb=15_000, start_peak_mb=15_000, load_s=2.0),
    world_service("chat", 7000, 9002, naps=True, exclusive=True, load_s=1.0),
    world_service("front", 600, 9003, depends_on=("embed",)),
    world_service("router", 0, 9004, driver="world-host", load_s=0.5),
    world_service("hyde", 5000, host="router", sleep_mode="unload"),
    world_service("rerank", 6000, host="router", sleep_mode="unload"),
    world_service("batch", 3000, 9005, load_s=0.1),
)
MODES = (
    world_mode("coding", "embed", "code"),
    world_mode("rag", "embed", "hyde:time-shared", "rerank:time-shared", "chat:time-shared"),
    world_mode("talk", "chat@1", "front", "rerank@2"),
    world_mode("night", "embed:asleep", "chat:asleep", "batch:asleep"),
    world_mode("blank"),
)
WANTED = {
    "coding": {"embed": "running", "code": "running"},
    "rag": {
        "embed": "running", "router": "running", "hyde": "sleeping", "rerank": "sleeping", "chat": "sleeping",
    },
    "talk": {"chat": "running", "embed": "running", "front": "running", "router": "running", "rerank": "running"},
    "night": {"embed": "sleeping", "chat": "sleeping"},
    "blank": {},
}  # fmt: skip


PAIRS = list(itertools.permutations(WANTED, 2))
ONCE_EACH = set(itertools.pairwise([*WANTED, *list(WANTED)[::2], *list(WANTED)[1::2]]))
"""Pairs that come from every mode and go to every mode, more than once. The others are `slow`."""


@pytest.mark.parametrize(
    ("first", "second"), [pytest.param(*pair, marks=[] if pair in ONCE_EACH else [pytest.mark.slow]) for pair in PAIRS]
)
def test_from_every_mode_to_every_other(make_box, first, second):
    box = make_box(24_000, define=[*SERVICES, *MODES])
    for mode in (first, second):
        box.world.history.clear()
        box.world.history.append((0.0, (sum(box.world.managed_mb().values()),)))
        outcome = box.switch(mode)
        assert (outcome.status, outcome.exit_code, outcome.error) == (
            RunStatus.DONE if WANTED[mode] or mode == second else RunStatus.NOTHING_TO_DO,
            0,
            None,
        )
        assert box.states() == WANTED[mode]
        assert box.store.current_mode() == mode
        box.check_within(outcome)
        box.check_sound()
    assert box.store.open_run() is None
    assert box.switch(second).status is RunStatus.NOTHING_TO_DO


def test_the_journal_tells_every_step(make_box):
    box = make_box(24_000, define=[*SERVICES, *MODES])
    outcome = box.switch("talk")
    assert {step.status for step in outcome.run.steps} == {StepStatus.DONE}
    assert [step.n for step in outcome.run.steps] == list(range(1, len(outcome.run.steps) + 1))
    kinds = {progress.kind for progress in box.told}
    assert {"planned", "step", "waiting", "ended"} <= kinds


def test_what_does_not_depend_on_one_another_starts_side_by_side(make_box):
    box = make_box(24_000, define=[world_service(f"s{n}", 2000, 9000 + n, load_s=10.0) for n in range(5)])
    box.define(world_mode("all", *(f"s{n}" for n in range(5))))
    began = box.world.clock.time_s
    box.switch("all")
    assert box.world.clock.time_s - began < 11


def test_readiness_is_noticed_soon(make_box):
    box = make_box(24_000, define=[world_service("quick", 1000, 9000, load_s=0.4)])
    began = box.world.clock.time_s
    box.start("quick")
    assert box.world.clock.time_s - began < 0.5


def test_a_service_alone_and_what_it_needs(make_box):
    box = make_box(24_000, define=[*SERVICES, *MODES])
    box.switch("night")
    assert box.start("front").exit_code == 0
    assert box.states() == {"embed": "running", "front": "running", "chat": "sleeping"}
    with pytest.raises(Failed, match="front depends on it"):
        box.stop("embed")
    assert box.stop("embed", cascade=True).exit_code == 0
    assert box.states() == {"chat": "sleeping"}
    assert box.store.current_mode() == "night"


def test_members_come_and_go_in_a_running_host(make_box):
    box = make_box(24_000, define=[*SERVICES, *MODES])
    box.start("hyde")
    host = box.world.alive()["router"].pid
    assert box.start("rerank").exit_code == 0
    assert box.start("hyde", want=Want.ASLEEP).exit_code == 0
    assert box.world.managed_mb() == {"rerank": 6000, "router": 0}
    assert box.states() == {"hyde": "sleeping", "rerank": "running", "router": "running"}
    assert box.start("hyde").exit_code == 0
    assert box.stop("rerank").exit_code == 0
    assert set(box.world.alive()["router"].members) == {"hyde"}
    assert box.world.alive()["router"].pid == host
    assert box.stop("hyde").exit_code == 0
    assert box.states() == {}


def test_a_member_that_leaves_is_out_while_another_comes_in(make_box):
    box = make_box(24_000, define=[*SERVICES, *MODES, world_mode("one", "hyde"), world_mode("other", "rerank")])
    for first, second in (("hyde", "rerank"), ("rerank", "hyde")):
        box.switch("one" if first == "hyde" else "other")
        outcome = box.switch("other" if first == "hyde" else "one")
        assert outcome.exit_code == 0
        assert box.states() == {second: "running", "router": "running"}
        assert set(box.world.alive()["router"].members) == {second}


def test_a_mode_that_does_not_fit_is_refused_and_can_be_forced(make_box):
    box = make_box(16_000, define=[*SERVICES, *MODES, world_mode("both", "code", "chat")])
    refused = box.switch("both")
    assert (refused.status, refused.exit_code, refused.error.code) == (RunStatus.REFUSED, 3, "does-not-fit")
    assert box.acts == []
    forced = box.switch("both", force=True)
    assert forced.exit_code == 6
    assert forced.error.code == "out-of-memory"
    assert box.states() == {}


def test_two_cards(make_box):
    box = make_box(8000, 24_000, define=[*SERVICES, *MODES, world_service("wide", 9000, 9010, gpus=(0, 1))])
    assert box.switch("coding").exit_code == 0
    assert box.world.alive()["code"].mb == {1: 14_000}
    box.define(world_mode("broad", "wide"))
    outcome = box.switch("broad")
    assert box.world.alive()["wide"].mb == {0: 4500, 1: 4500}
    box.check_within(outcome)


def test_a_switch_that_moves_nothing_is_recorded_whole_or_not_at_all(make_box):
    box = make_box(24_000, define=[*SERVICES, *MODES, world_mode("same", "embed", "code")])
    box.switch("coding")
    runs = box.store.runs(9)

    def fail():
        raise Failed("database", "no")

    box.when("write finish_run before", fail)
    with pytest.raises(Failed, match="no"):
        box.switch("same")
    assert (box.store.runs(9), box.store.current_mode()) == (runs, "coding")
    assert box.switch("same").status is RunStatus.NOTHING_TO_DO
    assert (box.store.runs(1)[0].target.mode, box.store.current_mode()) == ("same", "same")
