"""Starts that take long: what gets on is waited for, what shows nothing is not."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.domain.progress import ProgressKind
from gpumod.domain.run import RunStatus
from gpumod.testing.world_drivers import world_mode, world_service

TIMEOUT_S = 4.0
DEFINED = (
    world_service("web", 3000, 9001, load_s=1.0, startup_timeout=TIMEOUT_S),
    world_service("router", 0, 9005, driver="world-host", load_s=0.2),
    world_service("hyde", 2000, host="router", load_s=1.0, startup_timeout=TIMEOUT_S),
    world_mode("on", "web"),
    world_mode("hosted", "hyde"),
)
MODE_OF = {"web": "on", "hyde": "hosted"}
BOTH = pytest.mark.parametrize("service", MODE_OF)


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(16000, define=DEFINED)


def start_s(box: Any, service: str) -> list[float]:
    """What is known of how long it takes to start."""
    known = (kinds for (of, _), kinds in box.store.samples().items() if of == service)
    return [kinds["start_s"] for kinds in known if "start_s" in kinds]


@BOTH
def test_a_slow_disk_ends_no_start(box: Any, service: str) -> None:
    box.world.fault(service, "slow-start", 30)  # much longer than it may take
    box.world.fault(service, "reads-slowly", 40)
    outcome = box.switch(MODE_OF[service])
    assert outcome.status is RunStatus.DONE, outcome.error
    said = [news.text for news in box.told if news.kind is ProgressKind.WAITING and "reads its model" in news.text]
    assert 4 <= len(said) <= 7  # every five seconds
    assert said[0] != said[-1]
    assert start_s(box, service)[0] > 25


def test_a_look_that_fails_is_followed_by_others(box: Any) -> None:
    for fault, value in (("slow-start", 30), ("reads-slowly", 40), ("look-fails-once", 1)):
        box.world.fault("web", fault, value)
    outcome = box.switch("on")
    assert outcome.status is RunStatus.DONE, outcome.error


@BOTH
def test_without_a_sign_it_is_ended_in_time(box: Any, service: str) -> None:
    box.world.fault(service, "slow-start", 30)
    began = box.world.clock.monotonic()
    outcome = box.switch(MODE_OF[service])
    assert outcome.error.code in ("start-timeout", "load-timeout")
    assert box.world.clock.monotonic() - began < TIMEOUT_S + 10


@BOTH
def test_what_only_reads_is_not_waited_for_for_ever(box: Any, service: str) -> None:
    box.world.fault(service, "slow-start", 1e6)
    box.world.fault(service, "reads-slowly", 40)
    began = box.world.clock.monotonic()
    outcome = box.switch(MODE_OF[service])
    assert outcome.error.code in ("start-timeout", "load-timeout")
    assert 10 * TIMEOUT_S < box.world.clock.monotonic() - began < 12 * TIMEOUT_S + 10


@BOTH
def test_a_download_takes_the_time_that_it_takes_and_is_no_measure_of_a_start(box: Any, service: str) -> None:
    box.world.fault(service, "slow-start", 12 * TIMEOUT_S)
    box.world.fault(service, "downloads", 0.5)
    outcome = box.switch(MODE_OF[service])
    assert outcome.status is RunStatus.DONE, outcome.error
    said = [news.text for news in box.told if news.kind is ProgressKind.WAITING]
    assert f"it fetches {service}.part" in " ".join(said)
    assert start_s(box, service) == []


def test_a_trickle_is_no_loading(box: Any) -> None:
    box.world.fault("web", "slow-start", 30)
    box.world.fault("web", "reads-slowly", 0.2)
    assert box.switch("on").error.code == "start-timeout"


def test_a_time_that_was_asked_for_is_kept(box: Any) -> None:
    box.world.fault("web", "slow-start", 30)
    box.world.fault("web", "reads-slowly", 40)
    began = box.world.clock.monotonic()
    outcome = box.switch("on", timeout_s=3.0)
    assert outcome.error.code == "start-timeout"
    assert box.world.clock.monotonic() - began < 10


def test_what_shows_nothing_else_is_shown_by_its_log_without_secrets(box: Any) -> None:
    box.world.secrets["web"] = {"TOKEN": "hunter22"}
    box.world.fault("web", "slow-start", 3)
    box.when("start web after", lambda: box.world.logs["web"].append("key hunter22: compiling graph 3 of 9"))
    assert box.switch("on").status is RunStatus.DONE
    said = [news.text for news in box.told if news.kind is ProgressKind.WAITING]
    assert "it says: key (secret): compiling graph 3 of 9" in said


@pytest.mark.parametrize("fault", ["die-after", "never-ready"])
def test_why_a_start_failed_is_told_without_secrets(box: Any, fault: str) -> None:
    box.world.secrets["web"] = {"TOKEN": "hunter22", "PEM": "-----\nfirst line\nsecond line\n"}
    box.world.fault("web", fault, 0.5)
    line = "ValidationError: input_value='hunter22', 'second line'"
    box.when("start web after", lambda: box.world.logs["web"].append(line))
    error = box.switch("on").error
    assert "ValidationError: input_value='(secret)', '(secret)'" in error.details["log"]
    assert "hunter22" not in str(error)
    assert "hunter22" not in str(box.store.run(box.store.runs(1)[0].id))
