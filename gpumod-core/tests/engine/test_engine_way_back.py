"""The way back touches what differs from before, and nothing else."""

from __future__ import annotations

import pytest

from gpumod.domain.adopted import Adopted
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import Event
from gpumod.domain.states import State
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.world import Recipe
from gpumod.testing.world_drivers import quiet, world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

SERVICES = (
    world_service("sick", 2000, 9000),
    world_service("sick-and-small", 0, 9001),
    world_service("lost", 1000, 9002, run_with="elsewhere"),
    world_service("gone", 3000, 9003),
    world_service("nap", 2000, 9004, naps=True),
    world_service("doze", 2000, 9005, naps=True),
    world_service("base", 500, 9006),
    world_service("come", 3000, 9007, depends_on=("base",)),
)
UNTOUCHED = ("lost", "sick", "sick-and-small")
CHANGE = Target(
    members=(
        TargetMember(service="come"),
        TargetMember(service="nap", want=Want.ASLEEP),
        TargetMember(service="doze"),
    ),
    stop=("gone",),
    stop_others=False,
)


class Elsewhere(WorldSupervisor):
    """A supervisor that, once it is `mute`, cannot be asked any more."""

    name = "elsewhere"
    mute = False

    async def status(self, handles):
        if self.mute:
            raise ConnectionError("its daemon is gone")
        return await super().status(handles)


@pytest.fixture
def box(make_box):
    box = make_box(24_000)
    elsewhere = Elsewhere(box.world, box.home, quiet)
    box.offers = (SupervisorOffer(name="elsewhere", summary="may go mute", factory=lambda *_: elsewhere),)
    box.define(*SERVICES, world_mode("old", *UNTOUCHED, "gone", "nap", "doze:asleep"))
    assert box.switch("old").exit_code == 0
    elsewhere.mute = True
    box.world.fault("sick", "hang")
    box.world.fault("sick-and-small", "hang")
    box.acts.clear()
    box.elsewhere = elsewhere
    return box


def pids(box, *services):
    alive = box.world.alive()
    return {service: alive[service].pid for service in services}


def test_what_was_sick_or_lost_keeps_its_process(box):
    snapshot = box.observe()
    states = {service: snapshot.reading(service).state for service in UNTOUCHED}
    assert states == {"lost": State.UNKNOWN, "sick": State.UNHEALTHY, "sick-and-small": State.UNHEALTHY}
    assert snapshot.reading("lost").detail == "what keeps it cannot be asked"
    kept = pids(box, *UNTOUCHED, "nap", "doze")
    box.world.fault("come", "die-after", 1.0)
    outcome = box.change("change", CHANGE)
    assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting")
    assert {"stop gone sent", "sleep nap sent", "wake doze sent", "start base after"} <= set(box.acts)
    assert pids(box, *kept) == kept
    ready = dict.fromkeys([*UNTOUCHED, "gone", "nap"], "ready")
    assert box.world.states() == {**ready, "doze": "asleep"}
    back = [step.step for step in outcome.run.steps if step.phase == "rollback" and step.step.action != "verify"]
    assert {(step.action.value, step.service) for step in back} == {
        ("start", "gone"), ("wake", "nap"), ("sleep", "doze"), ("stop", "base"), ("stop", "come"),
    }  # fmt: skip
    assert set(box.store.handles()) == {*ready, "doze"}


def test_what_was_sick_and_is_stopped_by_the_run_comes_back(box):
    """One that held memory served, and is started again; one that held none is not missed."""
    box.world.fault("come", "die-after", 1.0)
    box.when("stop sick after", lambda: box.world.faults.pop("sick"))
    stopped = CHANGE.model_copy(update={"stop": ("gone", "sick", "sick-and-small")})
    outcome = box.change("change", stopped)
    assert outcome.exit_code == 6
    assert box.world.states()["sick"] == "ready"
    assert "sick-and-small" not in box.world.states()


def test_a_leak_is_borne_although_a_supervisor_is_mute(box):
    box.world.fault("gone", "leak", 1000)
    outcome = box.stop("gone")
    assert (outcome.exit_code, outcome.error) == (0, None)
    step = next(step for step in outcome.run.steps if step.step.service == "gone")
    assert step.detail == "unattributed 1000 MiB on GPU 0 did not come back"


def test_what_a_lost_service_is_comes_to_light_again(box):
    before = pids(box, "lost")
    box.world.fault("come", "die-after", 1.0)
    assert box.change("change", CHANGE).exit_code == 6
    box.elsewhere.mute = False
    assert box.states()["lost"] == "running"
    assert pids(box, "lost") == before


def test_a_supervisor_whose_plugin_is_gone(box):
    kept = pids(box, "lost", "gone")
    box.offers = ()
    box.world.fault("come", "die-after", 1.0)
    assert box.observe().reading("lost").state is State.UNKNOWN
    assert box.start("come").exit_code == 6
    assert pids(box, "lost", "gone") == kept


# --- definitions that changed meanwhile -------------------------------------------------------------------------------


def removed(box, service):
    box.store.delete_service(service, event=Event(at=box.world.clock.now(), kind="service-removed", subject=service))


def test_what_depended_on_a_service_that_was_removed(make_box):
    box = make_box(
        9000,
        define=[
            world_service("tool", 500, 9000),
            world_service("chat", 3000, 9001),
            world_service("come", 8000, 9002),
            world_mode("old", "chat"),
            world_mode("new", "come"),
        ],
    )
    assert box.switch("old").exit_code == 0
    # The stored definition came to need another service, which was then removed by hand.
    box.define(world_service("chat", 3000, 9001, depends_on=("tool",)))
    box.world.fault("come", "die-after", 1.0)
    box.when("start come after", lambda: removed(box, "tool"))
    outcome = box.switch("new")
    assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting")
    assert box.world.states() == {"chat": "ready"}
    assert box.store.current_mode() == "old"
    box.check_sound()


def test_what_needs_a_service_that_is_gone_for_good(make_box):
    box = make_box(
        9000,
        define=[
            world_service("tool", 500, 9000),
            world_service("chat", 3000, 9001, depends_on=("tool",)),
            world_service("come", 8000, 9002),
            world_mode("old", "chat"),
            world_mode("new", "come"),
        ],
    )
    assert box.switch("old").exit_code == 0
    box.world.crash("tool")
    removed(box, "tool")
    box.store.delete_handle("tool", event=Event(at=box.world.clock.now(), kind="forgotten", subject="tool"))
    box.world.fault("come", "die-after", 1.0)
    assert box.switch("new").exit_code == 6
    assert box.world.states() == {"chat": "ready"}
    box.check_sound()


# --- what nobody was to touch -----------------------------------------------------------------------------------------


def test_what_had_failed_before_is_told_to_have_failed(box):
    box.crash("gone")
    box.world.fault("come", "die-after", 1.0)
    assert box.change("change", CHANGE.model_copy(update={"stop": ()})).exit_code == 6
    assert box.states()["gone"] == "failed"


class TheirUnits(WorldSupervisor):
    """Keeps what somebody else starts and stops as well."""

    name = "adopted-unit"

    def _find(self, handle):
        return self.world.alive().get(handle.service)


def test_what_others_have_started_meanwhile_runs_on(make_box):
    told = Adopted(unit="theirs.service", manager="system")
    box = make_box(8000, define=[world_service("theirs", 1000, 9001, adopted=told), world_service("come", 2000, 9002)])
    keeper = SupervisorOffer(name=told.keeper, summary="", factory=lambda *_: TheirUnits(box.world, box.home, quiet))
    box.offers = (keeper,)
    assert box.start("theirs").exit_code == 0
    box.crash("theirs")
    assert box.states() == {"theirs": "stopped"}
    box.world.fault("come", "die-after", 1.0)
    theirs = Recipe(vram_mb=1000, load_s=0.1)
    box.when("start come after", lambda: box.world.spawn("theirs", "theirs", theirs, (0,), port=9001))
    assert box.start("come").exit_code == 6
    assert box.world.states() == {"theirs": "ready"}
