"""Idle time: when it begins, who may sleep for it, whatever is seen of a server in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.activity import Activity
from gpumod.domain.adopted import Adopted
from gpumod.domain.idling import Use, idle_s, may_not_sleep, seen, timeout_s
from gpumod.domain.mode import ModeMember, Want
from gpumod.domain.service import Service

CHAT = Service(id="chat", driver="vllm", port=1, sleep_mode="l1")
TIMES = st.floats(0, 10_000)


def looked(before: Use | None, told: Activity, now: float, run: str = "1", awake_since: float = 0.0) -> Use:
    return seen(before, told, service="chat", run=run, awake_since=awake_since, now=now)


@given(steps=st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 2), st.integers(0, 3)), min_size=1))
def test_idle_time_is_never_longer_than_since_the_last_use_there_was(steps: list[tuple[float, int, int]]) -> None:
    use, now, served, last_use = None, 0.0, 0, 0.0
    for passed_s, in_flight, answered in steps:
        now, served = now + passed_s, served + answered
        if answered:
            last_use = now - passed_s / 2
        if in_flight:
            last_use = now
        use = looked(use, Activity(in_flight=in_flight, served=served), now)
        assert idle_s(use, now) <= now - last_use
        assert use.used_at <= now


@given(quiet=st.lists(st.floats(0.1, 100), min_size=1))
def test_looks_themselves_are_no_use(quiet: list[float]) -> None:
    told = Activity(in_flight=0, served=7)
    use, now = looked(None, told, 100.0), 100.0
    for passed_s in quiet:
        now += passed_s
        use = looked(use, told, now)
    assert idle_s(use, now) == pytest.approx(sum(quiet))


@given(at=TIMES, now=TIMES, since=TIMES)
def test_what_a_server_tells_itself_counts_from_the_first_look_but_not_before_it_woke(
    at: float, now: float, since: float
) -> None:
    use = looked(None, Activity(in_flight=0, last_use_at=at), now, awake_since=min(since, now))
    assert use.used_at == max(min(at, now), min(since, now))


def test_a_server_that_started_anew_has_done_nothing_yet() -> None:
    before = looked(None, Activity(in_flight=0, served=9), 10.0)
    assert looked(before, Activity(in_flight=0, served=0), 500.0).used_at == 500.0  # its counter was set back
    assert looked(before, Activity(in_flight=0, served=9), 500.0, run="2").used_at == 500.0


def test_a_wake_is_where_idle_time_begins() -> None:
    before = looked(None, Activity(in_flight=0, served=9), 10.0)
    assert looked(before, Activity(in_flight=0, served=9), 500.0, awake_since=480.0).used_at == 480.0


def test_a_clock_that_was_set_back_makes_nothing_idle() -> None:
    assert idle_s(looked(None, Activity(in_flight=1), 500.0), 100.0) == 0


TURNS = ModeMember(service="chat", want=Want.TIME_SHARED)


@pytest.mark.parametrize(
    ("service", "member", "expected"),
    [
        (None, TURNS, 300.0),
        (60, TURNS, 60),
        (60, TURNS.model_copy(update={"idle_timeout": 20.0}), 20),
        (60, TURNS.model_copy(update={"idle_timeout": 0.0}), None),
        (0, TURNS, None),
        (None, ModeMember(service="chat"), None),
        (None, None, None),
        (60, None, 60),
    ],
)
def test_the_mode_says_the_time_out_before_the_service_and_that_before_the_settings(
    service: float | None, member: ModeMember | None, expected: float | None
) -> None:
    assert timeout_s(CHAT.model_copy(update={"idle_timeout": service}), member, 300.0) == expected


@pytest.mark.parametrize(
    ("change", "member", "needed_by", "held_by", "said"),
    [
        ({}, TURNS, (), "", ""),
        ({}, TURNS, (), "ann (pid 7)", "ann (pid 7) holds it"),
        ({"pinned": True}, TURNS, (), "", "pinned"),
        ({"adopted": Adopted(pid=7, identity="x")}, TURNS, (), "", "adopted"),
        ({}, TURNS, ("web",), "", "web needs it"),
        ({"sleep_mode": "none"}, ModeMember(service="chat"), (), "", "the mode wants it awake"),
        ({"sleep_mode": "none"}, TURNS, (), "", ""),
    ],
)
def test_who_may_not_sleep_is_told_why(
    change: dict[str, Any], member: ModeMember, needed_by: tuple[str, ...], held_by: str, said: str
) -> None:
    told = may_not_sleep(CHAT.model_copy(update=change), member, needed_by, held_by)
    assert (said in told) if said else told == ""
