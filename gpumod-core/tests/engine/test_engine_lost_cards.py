"""Cards that fall off the bus under a service that takes the same part of each: everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpumod.domain.errors import MachineLacks
from gpumod.domain.footprint import split
from gpumod.domain.service import Service
from gpumod.operations.params import ModeRef
from gpumod.plugins.offers import DriverOffer
from gpumod.ports import Capabilities
from gpumod.testing.world_drivers import WorldDriver, quick_service, world_mode


class EqualParts(WorldDriver):
    """The driver `equal-parts`: a service of the world that takes the same part of each of its cards, as vLLM does."""

    name = "equal-parts"

    def capabilities(self, service: Service) -> Capabilities:
        return super().capabilities(service).model_copy(update={"equal_part": True})


TP = quick_service("tp", 12_000, 9001, driver="equal-parts", gpus=(0, 1))
WEB = quick_service("web", 3000, 9002, gpus=(2,))
MODES = (world_mode("both", "tp", "web"), world_mode("w", "web"))


@pytest.fixture
def box(make_box: Callable[..., Any]) -> Any:
    box = make_box(8000, 12_000, 8000, define=[TP, WEB, *MODES])
    box.offers = (DriverOffer(name="equal-parts", summary="equal parts", factory=EqualParts),)
    assert box.switch("both").exit_code == 0
    return box


def test_cards_without_a_size_share_evenly() -> None:
    assert split(1001, (0, 1), {0: 0, 1: 0}) == {0: 501, 1: 501}
    assert split(1000, (0, 1), {0: 8000, 1: 0}) == {0: 1000, 1: 0}
    assert split(1000, (), {}) == {}


@pytest.mark.parametrize("lost", [{0}, {1}, {0, 1}], ids=str)
def test_what_is_on_other_cards_goes_on(box: Any, lost: set[int]) -> None:
    box.world.lost |= lost
    assert box.ask("mode_status", ModeRef(mode="w")).extra == ("tp",)
    assert box.look().mode == "both"
    assert box.start("web", restart=True).exit_code == 0
    assert box.switch("w").exit_code == 0
    assert box.world.states() == {"web": "ready"}


@pytest.mark.parametrize("lost", [{1}, {0, 1}], ids=str)
def test_a_service_whose_cards_are_lost_is_stopped_by_name_and_refused_a_start(box: Any, lost: set[int]) -> None:
    box.world.lost |= lost
    assert box.stop("tp").exit_code == 0
    assert box.world.states() == {"web": "ready"}
    with pytest.raises(MachineLacks) as caught:
        box.start("tp")
    assert caught.value.code == "gpu-lost"
    assert box.world.states() == {"web": "ready"}
