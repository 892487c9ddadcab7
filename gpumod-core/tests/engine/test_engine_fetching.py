"""What a start needs from elsewhere is fetched before the first step: until it is there, everything runs on."""

from __future__ import annotations

import pytest

from gpumod.domain.errors import Failed
from gpumod.domain.progress import ProgressKind
from gpumod.domain.run import RunStatus, StepStatus
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.signals import interrupt
from gpumod.testing.world_drivers import world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

SERVICES = (
    world_service("gone", 6000, 9000, load_s=0.2),
    world_service("come", 5000, 9002, load_s=0.2),
    world_service("more", 1000, 9003, load_s=0.2),
)
OLD, NEW = {"gone": "ready"}, {"come": "ready", "more": "ready"}


class Fetching(WorldSupervisor):
    """Keeps services that are started from something far away."""

    async def fetch(self, handle, tell):
        self.on_act(f"fetch {handle.service} before")
        tell("1 of 9 MiB")
        await self.world.clock.sleep(30.0)
        if "not-to-be-had" in self.world.faults.get(handle.service, {}):
            raise Failed("pull-failed", "it could not be had")
        if "breaks" in self.world.faults.get(handle.service, {}):
            raise RuntimeError("a stranger's bug")
        self.on_act(f"fetch {handle.service} after")


@pytest.fixture
def box(make_box):
    box = make_box(9000, define=[*SERVICES, world_mode("old", "gone"), world_mode("new", "come", "more")])
    offer = SupervisorOffer(
        name="fetches", summary="x", factory=lambda home, *_: Fetching(box.world, home, box._on_act)
    )
    box.offers, box.settings = (offer,), {"supervisor": "fetches"}
    assert box.switch("old").exit_code == 0
    box.acts.clear()
    box.told.clear()
    return box


def acts(box):
    return [act for act in box.acts if act.split()[0] in ("fetch", "start", "stop")]


def test_all_is_there_before_anything_is_stopped(box):
    outcome = box.switch("new")
    assert (outcome.status, box.world.states()) == (RunStatus.DONE, NEW)
    assert acts(box)[:4] == ["fetch more before", "fetch more after", "fetch come before", "fetch come after"]
    assert "stop gone before" in acts(box)
    told = [news for news in box.told if news.text == "1 of 9 MiB"]
    assert [(news.kind, news.step.service, news.step_status) for news in told] == [
        (ProgressKind.WAITING, "more", StepStatus.PENDING),
        (ProgressKind.WAITING, "come", StepStatus.PENDING),
    ]
    box.check_sound()


@pytest.mark.parametrize(("fault", "code"), [("not-to-be-had", "pull-failed"), ("breaks", "internal")])
def test_where_it_cannot_be_had_nothing_was_touched(box, fault, code):
    pid = box.world.alive()["gone"].pid
    box.world.fault("come", fault)
    outcome = box.switch("new")
    assert (outcome.status, outcome.exit_code, outcome.error.code) == (RunStatus.ROLLED_BACK, 6, code)
    assert acts(box) == ["fetch more before", "fetch more after", "fetch come before"]
    assert box.world.alive()["gone"].pid == pid
    assert {step.status for step in box.store.runs(1)[0].steps} == {StepStatus.SKIPPED}
    box.check_sound()


def test_a_signal_gives_it_up(box):
    box.when("fetch come before", interrupt)
    outcome = box.switch("new")
    assert (outcome.status, outcome.error.code) == (RunStatus.ROLLED_BACK, "interrupted")
    assert acts(box) == ["fetch more before", "fetch more after", "fetch come before"]
    assert box.world.states() == OLD
    assert box.switch("new").exit_code == 0


def test_the_way_back_starts_what_was_there(box):
    box.world.fault("come", "die-after", 0.1)
    outcome = box.switch("new")
    assert outcome.status is RunStatus.ROLLED_BACK
    assert "start gone before" in acts(box)
    assert not [act for act in acts(box) if act.startswith("fetch gone")]
    assert box.world.states() == OLD
    box.check_sound()
