"""A service that loads by use: nothing but its memory tells whether it sleeps."""

from __future__ import annotations

import pytest

from gpumod.plugins.offers import DriverOffer, SleepStrategyOffer
from gpumod.testing.world_drivers import Nap, WorldDriver, world_mode, world_service


class ByUse(WorldDriver):
    """A service of the world that loads by use: asleep it answers as awake."""

    name = "by-use"

    def capabilities(self, service):
        return super().capabilities(service).model_copy(update={"loads_by_use": True})

    async def probe(self, service, port, http):
        told = await super().probe(service, port, http)
        return told.model_copy(update={"state": "ready"}) if told.state == "sleeping" else told


OFFERS = (
    DriverOffer(name="by-use", summary="loads by use", factory=ByUse),
    SleepStrategyOffer(name="nap", summary="keeps a residue", drivers=("by-use",), factory=Nap),
)


@pytest.fixture
def box(make_box):
    lazy = world_service("lazy", 4000, 9000, driver="by-use", sleep_mode="nap", residue_mb=300)
    other = world_service("other", 5000, 9001)
    modes = world_mode("day", "lazy"), world_mode("night", "other", "lazy:asleep")
    made = make_box(8000)
    made.offers = OFFERS
    made.define(lazy, other, *modes)
    return made


def test_it_is_ready_without_memory(make_box):
    box = make_box(8000)
    box.offers = OFFERS
    lazy = world_service("lazy", 4000, 9000, driver="by-use", uses_mb=0)
    box.define(lazy, world_service("plain", 3000, 9001, uses_mb=0))
    assert box.start("lazy").exit_code == 0
    assert box.states() == {"lazy": "running"}
    assert box.start("plain").error.code == "cpu-fallback", "one that is not such a service"
    box.check_sound()


def test_it_sleeps_as_long_as_it_holds_no_more(box):
    assert box.switch("day").exit_code == 0
    assert box.switch("night").exit_code == 0
    assert box.states() == {"lazy": "sleeping", "other": "running"}
    proc = box.world.alive()["lazy"]
    box.world.hold(proc, 2500)
    assert box.states()["lazy"] == "running", "somebody used it"
    box.world.hold(proc, 300)
    assert box.states()["lazy"] == "sleeping"
    assert box.switch("day").exit_code == 0
    assert box.states() == {"lazy": "running"}
    box.world.hold(proc, 300)
    assert box.states() == {"lazy": "running"}, "it was woken: what it holds now says nothing"
    assert box.world.alive()["lazy"] is proc
    box.check_sound()


def test_a_sleep_before_its_first_use_makes_nobody_believe_that_it_stays_small(make_box):
    box = make_box(24_000)
    box.offers = OFFERS
    lazy = world_service("lazy", 10_000, 9000, driver="by-use", sleep_mode="nap", uses_mb=900, residue_mb=300)
    box.define(lazy, world_service("llm", 18_000, 9001), world_mode("rest", "lazy:asleep"), world_mode("day", "lazy"))
    box.define(world_mode("both", "lazy", "llm"))
    assert box.switch("rest").exit_code == 0
    assert box.switch("both").exit_code == 3
    box.switch("day")
    box.world.use("lazy")
    box.switch("rest")
    assert box.switch("both").exit_code == 3, "what it holds depends on what it was asked last"
