"""Where the driver does not tell what a process holds: services are counted once, by the difference that they make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.sharing import Claim, share_out
from gpumod.domain.states import Action
from gpumod.testing.world_drivers import world_mode, world_service

pytestmark = pytest.mark.slow

CLAIMS = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Claim, st.integers(0, 9000), st.integers(0, 9000)), max_size=6
)
ONE = world_service("one", 4000, 9000, residue_mb=300, naps=True)
TWO = world_service("two", 3000, 9001, residue_mb=200, naps=True)
LAZY = world_service("lazy", 4000, 9002, uses_mb=900)
HUGE = world_service("huge", 7000, 9003)
MODES = (
    world_mode("huge", "huge"),
    world_mode("both", "one", "two"),
    world_mode("nap", "one:asleep", "two"),
    world_mode("first", "one"),
    world_mode("one-by-one", "one", "two@1"),
    world_mode("lazy", "lazy"),
    world_mode("off"),
)


@given(untold_mb=st.integers(-10, 40_000), claims=CLAIMS)
def test_what_is_shared_out_is_there_and_nobody_gets_more_than_it_may_have(untold_mb, claims):
    shares = share_out(untold_mb, claims)
    assert sum(shares.values()) <= max(0, untold_mb)
    most = {service: max(claim) for service, claim in claims.items()}
    assert all(0 <= shares[service] <= most[service] for service in claims)
    if untold_mb >= sum(claim.measured_mb for claim in claims.values()):
        assert all(shares[service] >= claim.measured_mb for service, claim in claims.items())
    if untold_mb >= sum(most.values()):
        assert shares == most
    assert sum(shares.values()) == min(max(0, untold_mb), sum(most.values()))


@pytest.fixture(params=["tells_processes", "names_processes"])
def box(make_box, request):
    box = make_box(8000, define=[ONE, TWO, LAZY, HUGE, *MODES])
    setattr(box.world, request.param, False)
    return box


def counted(box):
    """What each service is said to hold, and what is said to be nobody's of ours."""
    snapshot = box.observe()
    held = {service: sum(reading.vram_mb.values()) for service, reading in snapshot.services.items()}
    return held, snapshot.foreign_mb(0)


def test_services_are_counted_once_through_starts_sleeps_wakes_and_stops(box):
    for mode in ("both", "nap", "both", "first", "nap", "off"):
        outcome = box.switch(mode)
        assert (outcome.exit_code, outcome.error) == (0, None), mode
        box.settled()
        assert counted(box) == (box.world.managed_mb(), 0), mode
        assert all(r.device_mb == r.vram_mb for r in box.observe().services.values())
    measured = {kind for kinds in box.store.samples().values() for kind in kinds}
    assert not {"settled_mb", "asleep_mb", "peak_mb"} & measured  # it is a count, and no measurement
    box.check_sound()


def test_it_survives_the_end_of_gpumod(box):
    box.switch("both")
    again = box.copy("again")
    assert counted(again) == ({"one": 4000, "two": 3000}, 0)
    assert again.switch("nap").exit_code == 0
    assert counted(again) == ({"one": 300, "two": 3000}, 0)
    again.close()


def test_what_a_stranger_holds_is_foreign(box):
    box.switch("first")
    box.world.foreign(2000)
    held, foreign_mb = counted(box)
    assert (held, foreign_mb) == ({"one": 4000}, 2000)
    refused = box.switch("both")
    assert (refused.exit_code, refused.plan.gpus[0].foreign_mb) == (3, 2000)


def test_what_a_stranger_takes_beside_a_start_is_perhaps_its(box):
    """It counts as the service's that started, for nothing tells them apart: the next finds no room."""
    game = box.world.foreign(100, name="game")

    def take() -> None:
        game.mb = 1500

    box.when("start one after", take)
    outcome = box.switch("one-by-one")
    assert (outcome.exit_code, outcome.error.code) == (6, "memory-taken")
    perhaps = f", perhaps of game (pid {game.pid})" if box.world.names_processes else ""
    assert outcome.error.why == f"memory that the driver tells of no process{perhaps} since the plan was made"


def test_a_service_that_grows_after_its_start_is_not_counted_twice(box):
    box.switch("lazy")
    assert counted(box) == ({"lazy": 900}, 0)
    assert box.world.hold(box.world.alive()["lazy"], 4000) == 0
    assert counted(box) == ({"lazy": 4000}, 0)
    assert box.start("two").exit_code == 0
    assert counted(box) == ({"lazy": 4000, "two": 3000}, 0)
    assert box.switch("off").exit_code == 0
    box.check_sound()


def test_a_service_on_the_cpu_is_noticed(box):
    box.switch("first")
    box.world.fault("two", "cpu-fallback")
    outcome = box.switch("both")
    assert (outcome.exit_code, outcome.error.code) == (6, "cpu-fallback")
    assert "device's difference" in outcome.error.message
    assert box.states() == {"one": "running"}
    assert counted(box) == ({"one": 4000}, 0)


def test_a_wake_beside_a_stop_is_seen_when_that_has_ended(box):
    """It has given its memory back, and lives on a while: till then that hides what has come."""
    assert box.switch("nap").exit_code == 0
    two = box.world.alive()["two"]
    box.world.fault("two", "ignore-sigterm")
    box.when("stop two sent", lambda: box.world.hold(two, 0))
    outcome = box.switch("first")
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert {step.step.service: step.detail for step in outcome.run.steps if step.detail} == {}
    assert box.store.handles()["one"].device_mb == {0: 4000}
    assert counted(box) == ({"one": 4000}, 0)
    box.check_sound()


def test_starts_take_turns_once_it_is_known_that_nobody_is_named(box):
    assert box.switch("first").exit_code == 0
    assert not box.observe().gpus[0].per_process
    starts = [step for step in box.switch("both").plan.steps if step.action is Action.START]
    assert [(step.service, step.exclusive) for step in starts] == [("two", True)]


def test_memory_that_does_not_come_back_is_noticed(box):
    box.switch("first")
    box.world.fault("one", "leak", 2000)
    outcome = box.switch("huge")
    assert (outcome.exit_code, outcome.error.code) == (6, "memory-not-released")
    assert "unattributed 2000 MiB" in outcome.error.why


def test_sleep_that_frees_nothing_is_noticed(box):
    box.switch("both")
    box.world.fault("one", "sleep-frees-nothing")
    outcome = box.switch("nap")
    assert outcome.exit_code == 0
    note = next(step.detail for step in outcome.run.steps if step.step.service == "one")
    assert "4000 MiB still held (by the device's difference" in note
    assert counted(box) == ({"two": 3000}, 0)


def test_a_start_that_fails_leaves_no_false_count(box):
    box.switch("first")
    box.world.fault("two", "never-ready")
    outcome = box.switch("both", timeout_s=5.0)
    assert (outcome.exit_code, outcome.error.code) == (6, "start-timeout")
    box.settled()
    assert counted(box) == ({"one": 4000}, 0)


def test_the_plan_says_where_its_numbers_are_from(box):
    box.switch("first")
    plan = box.switch("both").plan
    assert any("one holds now is the device's difference" in note for note in plan.notes)


# --- members of a host ----------------------------------------------------------------------------------------------

ROUTER = world_service("router", 0, 9004, driver="world-host")
MEMBER = world_service("member", 2000, host="router", sleep_mode="unload")


@pytest.fixture
def hosted(make_box):
    box = make_box(8000, define=[ROUTER, MEMBER, HUGE, world_mode("huge", "huge")])
    box.world.tells_processes = False
    assert box.start("member").exit_code == 0
    assert counted(box) == ({"member": 2000, "router": 0}, 0)
    return box


@pytest.mark.parametrize("ends", [True, False], ids=["ends with it", "goes on"])
def test_what_a_member_left_behind_is_waited_for_at_the_end_of_its_host(hosted, ends):
    left = hosted.world.alive()["member"]
    hosted.world.fault("member", "sleep-frees-nothing")
    if ends:
        hosted.when("stop router after", lambda: hosted.world.kill(left, -9))
    outcome = hosted.stop("member")  # the last member: its host stops too
    if ends:
        assert (outcome.exit_code, outcome.error) == (0, None)
        assert "it ends with router" in next(s.detail for s in outcome.run.steps if s.step.service == "member")
        hosted.settled()
        assert (hosted.states(), hosted.world.used_mb()) == ({}, 0)
    else:
        assert (outcome.exit_code, outcome.error.code) == (6, "memory-not-released")
        assert f"process member (pid {left.pid})" in outcome.error.why
        hosted.world.kill(left, 0)
        assert hosted.states() == {"member": "running", "router": "running"}
    hosted.check_sound()


def test_a_host_that_hangs_holds_what_its_members_held(hosted):
    hosted.world.names_processes = False
    hosted.world.fault("router", "hang")
    hosted.world.fault("member", "leak", 2000)
    assert counted(hosted) == ({"member": 0, "router": 2000}, 0)
    hosted.when("stop router after", lambda: hosted.world.faults.pop("router"))
    outcome = hosted.switch("huge")
    assert (outcome.exit_code, outcome.error.code) == (6, "memory-not-released")
    assert outcome.error.message.startswith("router let go of its memory")
    assert outcome.error.why == "unattributed 2000 MiB on GPU 0 still in use"
    assert counted(hosted) == ({"member": 2000, "router": 0}, 2000)


def test_what_a_host_does_not_unload_is_waited_for_at_its_end(hosted):
    hosted.world.names_processes = False
    hosted.world.fault("member", "leak", 1000)
    hosted.when("unload member before", lambda: hosted.world.fault("router", "hang"))
    outcome = hosted.stop("member")
    assert (outcome.exit_code, outcome.error) == (0, None)
    told = {step.step.service: step.detail for step in outcome.run.steps}
    assert "it ends with router" in told["member"]
    assert told["router"] == "unattributed 1000 MiB on GPU 0 did not come back"


# --- a card that is lost --------------------------------------------------------------------------------------------


@pytest.fixture
def pair(make_box):
    wide = [
        world_service("here", 2000, 9000, gpus=[0]),
        world_service("there", 2000, 9001, gpus=[1]),
        world_service("more", 2000, 9002, gpus=[1]),
        world_service("leans", 500, 9003, gpus=[0], depends_on=["there"]),
    ]
    modes = (
        world_mode("work", "here", "there", "leans"),
        world_mode("talk", "more", "here"),
        world_mode("near", "here"),
        world_mode("off"),
    )
    return make_box(8000, 8000, define=[*wide, *modes])


def test_a_card_that_is_lost_before_a_switch_is_named_before_anything_is_touched(pair):
    pair.switch("work")
    pair.world.lost.add(1)
    acts = len(pair.acts)
    with pytest.raises(Exception, match="GPU 1") as caught:
        pair.switch("talk")
    assert caught.value.code == "gpu-lost"
    assert not [act for act in pair.acts[acts:] if act.startswith(("stop", "start"))]
    assert pair.switch("near").exit_code == 0  # what needs the other card alone goes on
    assert pair.switch("off").exit_code == 0


def test_a_card_that_is_lost_in_a_switch_fails_it_and_the_rest_comes_back(pair):
    pair.switch("work")
    pair.when("stop there after", lambda: pair.world.lost.add(1))
    outcome = pair.switch("talk")
    assert (outcome.exit_code, outcome.error.code) == (7, "gpu-lost")
    assert "GPU 1" in outcome.error.message
    assert "there cannot come back" in outcome.error.why
    assert pair.states()["here"] == "running"
    assert "leans" in outcome.error.why
    pair.world.lost.clear()
    assert pair.recover("rollback").exit_code == 0
    assert pair.states() == {"here": "running", "leans": "running", "there": "running"}
