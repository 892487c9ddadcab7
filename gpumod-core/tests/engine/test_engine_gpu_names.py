"""A program that takes GPUs by number alone is told numbers; where these tell nothing, nothing is stopped for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gpumod.domain.errors import MachineLacks
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.offers import DriverOffer, SupervisorOffer
from gpumod.ports import Allocation, Driver, Launch
from gpumod.testing.world_drivers import WorldDriver, quiet, world_service
from gpumod.testing.world_parts import WorldSupervisor


class Counting(WorldDriver):
    """Its program knows numbers alone."""

    name = "counting"

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        return super().launch(service, allocation, settings).model_copy(update={"gpus_by_number": True})


class Bare(WorldSupervisor):
    """Notes what it is told of GPUs."""

    name = "bare"
    told: Mapping[str, str] = {}

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        self.told = {name: text for name, text in env.items() if name.startswith("WORLD_")}
        return await super().start(handle, launch, env)


class Jar(Bare):
    """Keeps services inside something that shows them their GPUs."""

    name = "jar"

    def check_service(self, service: Service, settings: Settings) -> None:
        pass

    def launch(self, driver: Driver, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        return driver.launch(service, allocation, settings)


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(9000, 9000)
    box.keepers = {keeper.name: keeper(box.world, box.home, quiet) for keeper in (Bare, Jar)}
    box.offers = (
        DriverOffer(name="counting", summary="counts", factory=Counting),
        SupervisorOffer(name="bare", summary="", factory=lambda *_: box.keepers["bare"]),
        SupervisorOffer(name="jar", summary="", factory=lambda *_: box.keepers["jar"]),
    )
    return box


@pytest.mark.parametrize(
    ("driver", "keeper", "numbered"), [("counting", "bare", True), ("world", "bare", False), ("counting", "jar", False)]
)
def test_only_who_needs_numbers_gets_them_and_nobody_who_is_kept_inside(
    box: Any, driver: str, keeper: str, numbered: bool
) -> None:
    box.define(world_service("code", 5000, 9001, driver=driver, run_with=keeper, gpus=(1,)))
    assert box.start("code").exit_code == 0
    told = box.keepers[keeper].told
    assert told == {"WORLD_GPUS": "1", **({"WORLD_COUNTS": "1"} if numbered else {})}


def test_where_numbers_tell_nothing_nothing_is_stopped(box: Any) -> None:
    old = world_service("old", 5000, 9001, driver="counting", gpus=(0,))
    box.define(old, world_service("chat", 5000, 9002, gpus=(0,)))
    assert box.start("chat").exit_code == 0
    box.world.lost.add(1)
    with pytest.raises(MachineLacks, match="cannot be told by number"):
        box.change("change", Target(members=(TargetMember(service="old"),)))
    assert box.world.states() == {"chat": "ready"}
