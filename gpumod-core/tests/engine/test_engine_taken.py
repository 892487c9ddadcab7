"""`memory-taken` where the driver tells of every process: who took what was free when the plan was made."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.testing.world_drivers import quick_service, world_mode

SERVICES = (
    quick_service("old", 1000, 9000),
    quick_service("lazy", 2000, 9001, uses_mb=500),
    quick_service("first", 1000, 9002),
    quick_service("next", 5000, 9003),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(10_000, define=[*SERVICES, world_mode("on", "old", "lazy", "first", "next@1")])
    assert box.start("old").exit_code == 0
    return box


def why(box: Any, do: Any) -> str:
    """Why there is no room for `next`, after `do` while `first` starts."""
    box.when("start first after", do)
    outcome = box.switch("on")
    assert (outcome.exit_code, outcome.error.code, outcome.error.details["service"]) == (6, "memory-taken", "next")
    said: str = outcome.error.why
    return said


def grow(box: Any, service: str, mb: int) -> None:
    assert box.world.hold(box.world.alive()[service], mb) == 0


def test_a_service_of_our_own_that_holds_more_than_it_did_is_named(box: Any) -> None:
    told = why(box, lambda: grow(box, "old", 5000))
    assert told == "service old with 4000 MiB more since the plan was made"


def test_so_is_one_that_the_run_itself_has_started(box: Any) -> None:
    def grow_once_it_is_ready(_act: str) -> None:
        if box.world.states().get("first") == "ready":
            grow(box, "first", 4000)

    box.every = grow_once_it_is_ready
    told = why(box, lambda: box.world.foreign(900, name="game"))
    game = box.world.strangers[0]
    assert told == (
        f"process game (pid {game.pid}) with 900 MiB, service first with 3000 MiB more since the plan was made"
    )


def test_one_that_grows_to_what_it_declares_is_not_blamed(box: Any) -> None:
    def grow_both() -> None:
        box.world.foreign(1500, name="game")
        grow(box, "lazy", 2000)

    assert box.start("lazy").exit_code == 0
    told = why(box, grow_both)
    assert told == f"process game (pid {box.world.strangers[0].pid}) with 1500 MiB since the plan was made"


def test_strangers_who_each_take_a_little_are_named(box: Any) -> None:
    idle = [box.world.foreign(2, name=f"tab{n}") for n in range(50)]

    def take() -> None:
        for one in idle:
            one.mb += 60

    told = why(box, take)
    assert told.startswith(f"process tab0 (pid {idle[0].pid}) with 62 MiB, process tab1 ")
    assert told.endswith(f"process tab4 (pid {idle[4].pid}) with 62 MiB, 45 others since the plan was made")
