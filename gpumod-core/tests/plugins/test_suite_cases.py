"""`gpumod plugins check` tests what a plugin made, not what keeps it to its word: the verdict is its author's own."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.plugins.offers import DriverOffer, SleepStrategyOffer
from gpumod.testing.check.cases import case_of
from gpumod.testing.suites.launching import Launching
from gpumod.testing.suites.powers import Powers
from gpumod.testing.suites.sleep import SleepStrategySuite
from gpumod.testing.world import World
from gpumod.testing.world_drivers import Nap, WorldHost, world_plugins, world_service

HOST = world_service("host", 0, 9001, driver="odd")
NAPS = world_service("naps", 2000, 9000, naps=True)


class Lists(WorldHost):
    """Lists its members where it should map them to readings; load does nothing, and exits."""

    async def members(self, *_: Any) -> Any:
        return []

    async def load(self, *_: Any) -> None:
        raise SystemExit(3)


class Exits(Nap):
    async def sleep(self, *_: Any) -> None:
        raise SystemExit(3)


def cases(hook: str, key: str, *services: Any) -> Any:
    offers = (
        DriverOffer(name="odd", summary="", factory=Lists),
        SleepStrategyOffer(name="odd", summary="", drivers=("world",), factory=Exits),
    )
    return case_of(world_plugins(World(8000), more=offers), hook, key, services)


def test_a_wrong_answer_is_no_error_that_a_suite_allows() -> None:
    with pytest.raises(AttributeError):
        Powers().test_a_host_may_say_anything(cases("gpumod_drivers", "odd", HOST))


def test_what_a_driver_lacks_is_named() -> None:
    class Mute(WorldHost):
        probe = None

    offer = DriverOffer(name="odd", summary="", factory=Mute)
    case = case_of(world_plugins(World(8000), more=(offer,)), "gpumod_drivers", "odd", [HOST])
    with pytest.raises(AssertionError, match="it lacks probe"):
        Launching().test_it_is_a_driver(case)


def test_an_exit_is_no_error_that_a_suite_wants() -> None:
    guest = world_service("guest", 1000, host="host", driver="odd", sleep_mode="unload")
    with pytest.raises(SystemExit):
        Powers().test_a_host_that_is_away_is_told_as_an_error(cases("gpumod_drivers", "odd", HOST, guest), "load")
    with pytest.raises(SystemExit):
        SleepStrategySuite().test_no_answer_is_an_error(
            cases("gpumod_sleep_strategies", "world/odd", NAPS), "sleep", "refused"
        )
