"""What holders of leases have taken already: whatever is taken is counted once, whoever took it."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.operations.params import FreeParams, NoParams
from gpumod.testing.world_drivers import quick_service

WEB = quick_service("web", 17_000, 9001)
HUGE = quick_service("huge", 23_900, 9003)
SMALL = quick_service("small", 11_000, 9002)
LARGEST_MB = 24_000 - 512


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(24_000, define=[WEB, HUGE, SMALL])


def lease(box: Any, mb: int, **more: Any) -> str:
    made = box.ask("free", FreeParams(mb=mb, **more))
    assert made.change.exit_code == 0
    return str(made.lease.id)


def used(box: Any) -> list[int]:
    """What each lease is said to be used of, the oldest first."""
    return [row.used_mb for row in box.ask("status", NoParams()).leases]


def budget_mb(box: Any) -> int:
    """What services together may hold, by a plan that does not fit."""
    refused = box.start("huge")
    assert refused.exit_code == 3
    mb: int = refused.plan.gpus[0].budget_mb
    return mb


def test_what_one_holder_takes_is_not_the_room_of_another(box: Any) -> None:
    lease(box, 6000)
    lease(box, 6000)
    assert budget_mb(box) == LARGEST_MB - 12_000
    box.world.foreign(6000)
    assert used(box) == [6000, 0]
    assert box.start("web").exit_code == 3
    assert budget_mb(box) == LARGEST_MB - 12_000
    box.world.foreign(4000)
    assert used(box) == [6000, 4000]
    assert budget_mb(box) == LARGEST_MB - 12_000
    box.world.foreign(5000)  # more than both may
    assert used(box) == [6000, 6000]
    assert budget_mb(box) == LARGEST_MB - 15_000


def test_what_was_taken_before_a_lease_began_is_an_older_ones(box: Any) -> None:
    box.world.foreign(500)
    lease(box, 6000)
    box.world.foreign(6000)
    lease(box, 3000)
    assert used(box) == [6000, 0]
    box.world.foreign(3000)
    assert used(box) == [6000, 3000]
    assert budget_mb(box) == LARGEST_MB - 9500


def test_what_a_holders_process_takes_is_its_own(box: Any) -> None:
    """Of three leases the second is a process's: the two others share what else was taken."""
    lease(box, 2000)
    train = box.world.foreign(0, name="train")
    lease(box, 6000, pid=train.pid)
    lease(box, 2000)
    train.mb = 5000
    assert used(box) == [0, 5000, 0]
    box.world.foreign(3000)
    assert used(box) == [2000, 5000, 1000]
    assert budget_mb(box) == LARGEST_MB - 10_000
    box.world.gone.add(train.pid)
    box.world.strangers.remove(train)
    assert used(box) == [2000, 1000], "it took its own with it, and nothing of the others'"


def test_a_lease_that_begins_beside_a_holders_process_counts_what_comes_after_that_process(box: Any) -> None:
    train = box.world.foreign(0, name="train")
    lease(box, 6000, pid=train.pid)
    train.mb = 6000
    lease(box, 4000)
    game = box.world.foreign(4000)
    assert used(box) == [6000, 4000]
    box.world.strangers.remove(train)
    box.world.gone.add(train.pid)
    assert used(box) == [4000]
    game.mb = 1000
    assert used(box) == [1000]
    assert budget_mb(box) == LARGEST_MB - 4000


def test_what_a_holders_container_takes_is_not_counted_as_a_strangers(box: Any) -> None:
    """`gpumod free 12000 -- docker run ...`: its process on the GPU is none below COMMAND."""
    docker = box.world.foreign(0, name="docker")
    lease(box, 12_000, pid=docker.pid)
    assert box.start("small").exit_code == 0
    box.world.foreign(12_000, name="in-a-container").contained = True
    assert used(box) == [12_000]
    again = box.start("small", restart=True)
    assert (again.exit_code, again.plan.gpus[0].budget_mb) == (0, LARGEST_MB - 12_000)


def test_what_a_stranger_takes_is_not_the_room_of_a_process(box: Any) -> None:
    """It has taken nothing yet: half a minute before torch begins, say."""
    box.world.foreign(1000, name="desktop")
    box.world.foreign(2000, name="another's").contained = True
    train = box.world.foreign(0, name="train")
    lease(box, 12_000, pid=train.pid)
    box.world.foreign(6000, name="game")
    assert used(box) == [0]
    assert budget_mb(box) == LARGEST_MB - 12_000 - 9000
    train.mb = 5000
    assert used(box) == [5000]


def test_what_a_container_takes_is_one_holders(box: Any) -> None:
    first, second = (box.world.foreign(0, name="docker") for _ in range(2))
    lease(box, 6000, pid=first.pid)
    lease(box, 6000)
    lease(box, 4000, pid=second.pid)
    box.world.foreign(7000, name="in-a-container").contained = True
    assert used(box) == [6000, 1000, 0]
    box.world.foreign(5000, name="game")
    assert used(box) == [6000, 6000, 0]
    assert budget_mb(box) == LARGEST_MB - 16_000


def test_a_lease_that_is_over_takes_nothing_of_one_that_holds(box: Any) -> None:
    train = box.world.foreign(0, name="train")
    lease(box, 6000, pid=train.pid)
    lease(box, 5000, pid=train.pid, for_s=10)
    lease(box, 1000)
    train.mb = 5000
    assert used(box) == [0, 5000, 0]
    box.world.clock.ahead_s += 60
    assert used(box) == [5000, 0]
    assert budget_mb(box) == LARGEST_MB - 7000


def test_a_process_with_two_leases_takes_of_both_and_once(box: Any) -> None:
    train = box.world.foreign(1000, name="train")
    lease(box, 6000, pid=train.pid)
    lease(box, 3000, pid=train.pid)
    assert used(box) == [0, 1000]
    train.mb = 5000
    assert used(box) == [2000, 3000]
    assert budget_mb(box) == LARGEST_MB - 9000
