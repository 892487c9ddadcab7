"""`watch` and timers where one service hinders others: a host that does not start, a row or a card that is gone."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest

from gpumod.domain.errors import GpumodError, HalfWay
from gpumod.domain.plan import AlternativeKind
from gpumod.operations.params import SwitchParams
from gpumod.operations.use_results import SleepIdleParams
from gpumod.testing.world_drivers import quick_service, world_mode

MEMBERS = [quick_service(f"m{n}", 1000, host="router", sleep_mode="unload") for n in range(1, 5)]
ROUTER = quick_service("router", 0, 9005, driver="world-host")


def test_members_do_not_start_their_host_more_often_than_its_budget_allows(make_box: Any) -> None:
    box = make_box(20000, define=[ROUTER, *MEMBERS, world_mode("on", *(member.id for member in MEMBERS))])
    assert box.switch("on").exit_code == 0
    seen = box.look()
    box.crash("router")
    box.world.fault("router", "die-after", 0.01)
    box.acts.clear()
    for _ in range(60):
        seen = box.look(seen)
        box.pass_time(10)
    assert box.acts.count("start router after") == 3
    assert any(note.startswith("router is left alone, it was restarted 3 times") for note in seen.notes)


@pytest.fixture
def two_cards(make_box: Any) -> Any:
    idle = {"naps": True, "idle_timeout": 20}
    services = [quick_service("x", 1000, 9001, gpus=(1,), **idle), quick_service("y", 1000, 9002, gpus=(0,), **idle)]
    box = make_box(20000, 20000, define=[*services, world_mode("on", "x", "y")])
    assert box.switch("on").exit_code == 0
    return box


def test_what_is_on_a_card_that_is_not_used_any_more_has_not_lost_its_memory(make_box: Any) -> None:
    services = [quick_service(name, 12000, port) for name, port in (("x", 9001), ("y", 9002))]
    box = make_box(20000, 20000, define=[*services, world_mode("on", "x", "y")])
    assert box.switch("on").exit_code == 0
    seen = box.look()
    assert set(seen.held) == {"x", "y"}
    box.settings["cuda_devices"] = "0"
    assert box.look(seen).mended == ()
    assert box.world.states() == {"x": "ready", "y": "ready"}


def test_who_cannot_be_planned_keeps_nobody_awake(two_cards: Any) -> None:
    two_cards.settings["cuda_devices"] = "0"
    for _ in range(4):
        two_cards.pass_time(30)
        try:
            two_cards.ask("auto_sleep_idle", SleepIdleParams())
        except GpumodError as error:
            assert error.code == "unknown-gpu"  # noqa: PT017 - some of these are to fail, others not
    assert two_cards.world.states()["y"] == "asleep"


def test_a_run_that_is_open_is_no_fault_of_who_was_to_sleep(two_cards: Any) -> None:
    assert two_cards.ask("auto_sleep_idle", SleepIdleParams()).change is None
    two_cards.pass_time(30)
    two_cards.world.fault("y", "oom-at-start")
    assert two_cards.start("y", restart=True, rollback=False).exit_code == 7
    with pytest.raises(HalfWay):
        two_cards.ask("auto_sleep_idle", SleepIdleParams())
    assert two_cards.store.events_of("idle-sleep-failed", limit=9) == ()


def test_a_member_that_cannot_be_read_lets_the_others_be_kept(make_box: Any) -> None:
    services = [
        quick_service("hyde", 4000, 9001, naps=True),
        quick_service("rank", 4500, 9002, naps=True),
        quick_service("tiny", 100, 9003),
    ]
    box = make_box(8000, define=[*services, world_mode("both", "hyde", "rank", "tiny")])
    refused = box.ask("switch", SwitchParams(mode="both"))
    shared = next(one.id for one in refused.plan.alternatives if one.kind is AlternativeKind.TIME_SHARE)
    assert box.ask("switch", SwitchParams(mode="both", alternative=shared)).exit_code == 0
    seen = box.look()
    with contextlib.closing(sqlite3.connect(box.folder / "gpumod.db")) as database, database:
        database.execute("UPDATE services SET vram_mb = -5 WHERE id = 'rank'")
    box.crash("tiny")
    (done,) = box.look(seen).mended
    assert (done.subject, done.error, box.world.states()["tiny"]) == ("tiny", None, "ready")


def test_what_keeps_a_run_from_being_closed_is_said_and_no_failure(make_box: Any) -> None:
    box = make_box(8000, define=[quick_service("small", 500, 9001), world_mode("on", "small")])
    box.switch("on")
    seen = box.look()
    box.crash("small")
    killed: list[Any] = []
    box.when("start small after", lambda: killed.append(box.copy("killed")))
    box.look(seen)
    (cut,) = killed
    cut.world.free_disk_mb = 10
    seen = cut.look()
    assert seen.mended == ()
    assert any(note.startswith("watch: restart small is not closed yet: the disk of") for note in seen.notes)
    cut.world.free_disk_mb = 100_000
    assert [done.what for done in cut.look(seen).mended] == ["recover"]
    cut.close()
