"""What is left behind: of services whose driver is not there nothing is known, so nothing of theirs is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gpumod.api import Left
from gpumod.domain.run import Event
from gpumod.engine.leftovers import is_moving, leftovers, sweep
from gpumod.plugins.offers import DriverOffer, SupervisorOffer
from gpumod.testing.world_drivers import WorldDriver, quiet, world_service
from gpumod.testing.world_parts import WorldSupervisor


class Boxed(WorldDriver):
    """A third party's driver, whose services are kept in containers alone."""

    name = "boxed"


class Docker(WorldSupervisor):
    """Keeps a container of each service that was ever started."""

    name = "docker"

    def left(self) -> Mapping[str, Left]:
        procs = self.world.procs.values()
        down = {proc.service for proc in procs} - {proc.service for proc in procs if proc.alive}
        return {service: Left(what="container", end="docker rm") for service in down - self.forgotten}

    async def forget(self, service: str) -> bool:
        self.forgotten.add(service)
        return True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.forgotten: set[str] = set()


@pytest.fixture
def box(make_box: Callable[..., Any]) -> Any:
    box = make_box(8000)
    box.docker = Docker(box.world, box.home, quiet)
    kept = SupervisorOffer(name="docker", summary="", factory=lambda *_: box.docker)
    box.offers = (DriverOffer(name="boxed", summary="", factory=Boxed, run_with="docker"), kept)
    box.define(
        world_service("theirs", 500, 9001, driver="boxed"),
        world_service("web", 500, 9002, run_with="docker"),
        world_service("old", 500, 9003, run_with="docker"),
    )
    for service in ("theirs", "web", "old"):
        assert box.start(service).exit_code == 0
        assert box.stop(service).exit_code == 0
    return box


def test_what_cannot_be_told_for_want_of_its_driver_is_not_swept(box: Any) -> None:
    assert leftovers(box.machine()) == []
    box.define(world_service("web", 500, 9002))
    removed = Event(at=box.world.clock.now(), kind="service-removed", subject="old")
    box.store.delete_service("old", event=removed)
    box.offers = box.offers[1:]  # its plugin is not installed, or broken
    box.world.clock.run(sweep(box.machine()))
    assert box.docker.forgotten == {"web", "old"}


def test_what_is_up_without_its_driver_moves_nowhere(box: Any) -> None:
    assert box.start("theirs").exit_code == 0
    assert not is_moving(box.machine())
    box.offers = box.offers[1:]
    assert not is_moving(box.machine())
    box.define(world_service("theirs", 500, 9001))
    assert is_moving(box.machine())
