"""Definitions that are edited while their services are up, numbers that depend on the card, and what sleep keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.footprint import Estimate, Source
from gpumod.domain.machine import GpuReading
from gpumod.domain.mode import Want
from gpumod.domain.service import Service
from gpumod.engine.footprints import cards_of, footprint, key_of
from gpumod.plugins.offers import VramEstimatorOffer
from gpumod.plugins.registry import Offered, Registry
from gpumod.testing.world_drivers import world_mode, world_service

A = world_service("a", 5000, 9001, naps=True)
B = world_service("b", 4000, 9002)


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(
        8000, define=[A, B, world_mode("a", "a"), world_mode("nap", "a:asleep"), world_mode("both", "a", "b")]
    )


def counted(outcome: Any, service: str) -> int:
    return int(next(row.vram_mb for row in outcome.plan.services if row.id == service))


def test_what_sleeps_wakes_to_what_it_was_launched_with(box: Any) -> None:
    box.switch("nap")
    box.define(A.model_copy(update={"vram_mb": 3000}))
    outcome = box.switch("both")
    assert outcome.exit_code == 3, "it would wake to 5000 MiB"
    assert counted(outcome, "a") == 5000
    assert box.world.states() == {"a": "asleep"}


def test_a_restart_takes_the_edited_definition(box: Any) -> None:
    box.switch("nap")
    box.define(A.model_copy(update={"vram_mb": 3000}))
    assert box.start("a", restart=True).exit_code == 0
    outcome = box.switch("both")
    assert outcome.exit_code == 0
    assert box.world.managed_mb() == {"a": 3000, "b": 4000}


def test_an_edited_sleep_mode_waits_for_the_next_start(box: Any) -> None:
    box.switch("a")
    box.define(A.model_copy(update={"sleep_mode": "none"}))
    assert box.start("a", want=Want.ASLEEP).exit_code == 0
    assert box.world.states() == {"a": "asleep"}
    assert box.switch("a").exit_code == 0


def test_what_cannot_sleep_as_it_was_launched_is_stopped(box: Any) -> None:
    box.define(A.model_copy(update={"sleep_mode": "none"}))
    box.switch("a")
    box.define(A)
    assert box.switch("nap").exit_code == 0
    assert box.world.states() == {}
    assert box.switch("nap").exit_code == 0
    assert box.world.states() == {"a": "asleep"}


def test_pins_and_dependencies_hold_at_once(box: Any) -> None:
    box.define(world_mode("b", "b"), world_service("c", 100, 9003))
    box.switch("a")
    box.define(A.model_copy(update={"pinned": True, "depends_on": ("c",)}))
    assert box.switch("b").exit_code == 3, "a stays, and b does not fit beside it"
    assert box.switch("a").exit_code == 0
    assert box.world.states() == {"a": "ready", "c": "ready"}


def test_what_is_unhealthy_starts_as_it_is_defined_now(box: Any) -> None:
    box.switch("a")
    box.define(A.model_copy(update={"vram_mb": 3000}))
    box.world.fault("a", "hang")
    box.when("write delete_handle before", box.world.faults.clear)
    outcome = box.switch("both")
    assert outcome.exit_code == 0
    assert box.world.managed_mb() == {"a": 3000, "b": 4000}


def test_dependents_that_restart_too_start_as_they_are_defined_now(make_box: Any) -> None:
    web = world_service("web", 1000, 9004, depends_on=("b",))
    box = make_box(8000, define=[B, web, world_mode("on", "web")])
    box.switch("on")
    box.define(web.model_copy(update={"vram_mb": 1500}))
    assert box.start("b", restart=True, cascade=True).exit_code == 0
    assert box.world.managed_mb() == {"b": 4000, "web": 1500}


def test_gpus_that_were_edited_hold_after_a_restart(make_box: Any) -> None:
    box = make_box(8000, 8000, define=[A, world_mode("a", "a")])
    box.switch("a")
    box.define(A.model_copy(update={"gpus": (1,)}))
    assert box.switch("a").exit_code == 0
    assert box.store.handles()["a"].gpus == (0,)
    assert box.start("a", restart=True).exit_code == 0
    assert box.store.handles()["a"].gpus == (1,)


# --- numbers ----------------------------------------------------------------------------------------------------------


class Half:
    """Services of the role `half` take half of the card, whatever they declare."""

    def estimate(self, service: Service, gpu_total_mb: int, info: object) -> Estimate | None:
        if service.role != "half":
            return None
        return Estimate(estimator="half", source=Source.EXPLICIT, vram_mb=gpu_total_mb // 2)


def with_half(machine: Any) -> Any:
    offer = VramEstimatorOffer(name="half", summary="half of the card", factory=Half)
    estimators = Registry("VRAM estimator", {"half": Offered("VRAM estimator", offer, "gpumod-core")})
    return dataclasses.replace(machine, plugins=dataclasses.replace(machine.plugins, estimators=estimators))


def cards(*totals: int) -> tuple[GpuReading, ...]:
    return tuple(
        GpuReading(index=i, name=f"card of {mb}", total_mb=mb, used_mb=0, free_mb=mb) for i, mb in enumerate(totals)
    )


HALF = world_service("half", 0, 9005, naps=True, role="half")


def test_sleep_keeps_what_the_chosen_number_leaves(box: Any) -> None:
    found = footprint(with_half(box.machine()), HALF, cards(8000))
    assert (found.vram_mb, found.asleep_mb) == (4000, 300)


@pytest.mark.parametrize(
    ("gpus", "seat", "vram_mb"),
    [("any", (), 12000), ("any", (0,), 6000), ((0,), (), 6000), ((1,), (), 12000), ((0,), (1,), 12000)],
)
def test_a_share_is_that_of_the_card_it_goes_to_and_never_understated(
    box: Any, gpus: Any, seat: tuple[int, ...], vram_mb: int
) -> None:
    service = HALF.model_copy(update={"gpus": gpus})
    found = footprint(with_half(box.machine()), service, cards(12000, 24000), placed_on=seat)
    assert found.vram_mb == vram_mb


def test_measurements_are_not_believed_of_a_card_of_another_kind() -> None:
    service = world_service("a", 5000, 9001)
    small, large = ((i,) for i in (0, 1))
    mixed = cards(12000, 24000)
    assert len({key_of(service, mixed, seat) for seat in ((), small, large)}) == 3
    assert key_of(service, mixed, large) == key_of(service, cards(24000))


@given(st.integers(1, 6), st.data())
def test_on_cards_of_one_kind_it_does_not_matter_which(count: int, data: st.DataObject) -> None:
    service = world_service("a", 5000, 9001)
    seat = data.draw(st.integers(0, count - 1))
    equal = cards(*[24000] * count)
    assert key_of(service, equal, (seat,)) == key_of(service, equal) == key_of(service, cards(24000))
    assert len(cards_of(service, equal)) == 1


def test_a_measurement_is_found_again_on_several_equal_cards(make_box: Any) -> None:
    big = world_service("big", 4000, 9006, uses_mb=5200)
    first = world_service("first", 7000, 9007)
    box = make_box(8000, 8000, define=[big, first, world_mode("two", "first", "big"), world_mode("one", "big")])
    box.switch("two")
    assert box.store.handles()["big"].gpus == (1,)
    box.stop("big")
    box.stop("first")
    assert counted(box.switch("one"), "big") == 5200
