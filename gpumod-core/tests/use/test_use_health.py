"""Health: single slips change nothing, back-off grows and is bounded, and restarts have a budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.health import Budget, Health, Limits, Pulse, Sign, beat, changed, restart_at, wait_for

LIMITS = Limits(interval_s=10, failures=3, successes=2, most_s=300, jitter=0.1)
SIGNS: st.SearchStrategy[Sign] = st.sampled_from(["good", "bad", "unclear"])
CHANCES = st.floats(0, 1, exclude_max=True)


def new() -> Pulse:
    return Pulse(service="chat", run="1", since=0.0, next_at=0.0)


def after(signs: list[Sign], pulse: Pulse | None = None, chance: float = 0.5) -> Pulse:
    pulse = pulse or new()
    for sign in signs:
        pulse = beat(pulse, sign, f"it was {sign}", pulse.next_at, LIMITS, chance)
    return pulse


def test_it_takes_so_many_looks_in_a_row() -> None:
    well = after(["good"])
    assert well.health is Health.HEALTHY  # who was not judged yet is judged at once
    assert after(["bad", "bad"], well).health is Health.HEALTHY
    assert after(["bad", "bad", "good", "bad", "bad"], well).health is Health.HEALTHY
    sick = after(["bad", "bad", "bad"], well)
    assert (sick.health, sick.detail) == (Health.UNHEALTHY, "it was bad")
    assert after(["good"], sick).health is Health.UNHEALTHY
    assert after(["good", "good"], sick).health is Health.HEALTHY
    assert after(["unclear"] * 3, well).health is Health.UNKNOWN


def test_an_end_is_no_slip() -> None:
    assert after(["dead"], after(["good"])).health is Health.UNHEALTHY


@given(signs=st.lists(SIGNS, min_size=1), chance=CHANCES)
def test_what_is_said_changes_only_after_a_row_that_agrees(signs: list[Sign], chance: float) -> None:
    pulse, row = new(), 0
    for n, sign in enumerate(signs):
        row = row + 1 if n and signs[n - 1] == sign else 1
        before, now = pulse, pulse.next_at
        pulse = beat(pulse, sign, "", now, LIMITS, chance)
        news = changed(before, pulse, now)
        assert (news is None) is (before.health is pulse.health)
        if news is not None:
            first = before.health is Health.UNKNOWN and sign == "good"
            assert first or row >= (LIMITS.successes if sign == "good" else LIMITS.failures)
            assert pulse.since == now


@given(streak=st.integers(1, 10_000), sign=SIGNS, chance=CHANCES)
def test_the_wait_grows_to_a_bound_and_jitter_stays_in_its_part(streak: int, sign: Sign, chance: float) -> None:
    wait_s = wait_for(streak, sign, LIMITS)
    assert LIMITS.interval_s <= wait_s <= LIMITS.most_s
    assert wait_s <= wait_for(streak + 1, sign, LIMITS)
    pulse = new().model_copy(update={"sign": sign, "streak": streak - 1})
    waited_s = beat(pulse, sign, "", 0.0, LIMITS, chance).next_at
    assert 0.9 * wait_s <= waited_s <= 1.1 * wait_s


def test_the_waits_of_one_that_stays_sick() -> None:
    assert [wait_for(n, "bad", LIMITS) for n in range(1, 10)] == [10, 10, 10, 20, 40, 80, 160, 300, 300]


def test_two_services_are_not_looked_at_in_one_instant() -> None:
    assert after(["good"], chance=0.1).next_at != after(["good"], chance=0.9).next_at


@given(
    gaps=st.lists(st.floats(0, 2000), max_size=60),
    budget=st.builds(Budget, restarts=st.integers(0, 5), window_s=st.sampled_from([60.0, 3600.0])),
)
def test_no_more_restarts_than_the_budget_in_any_window(gaps: list[float], budget: Budget) -> None:
    tries: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        at = restart_at(tries, budget, now)
        if at is not None and at <= now:
            tries.append(now)
    for end in tries:
        assert sum(end - budget.window_s < at <= end for at in tries) <= budget.restarts


@pytest.mark.parametrize(
    ("tries", "at"),
    [([], 1000.0), ([990.0], 1005.0), ([900.0, 990.0], 1050.0), ([10.0, 900.0, 990.0], None), ([-4000.0], 1000.0)],
)
def test_the_first_restart_is_at_once_and_the_others_wait_longer_each_time(
    tries: list[float], at: float | None
) -> None:
    assert restart_at(tries, Budget(), 1000.0) == at
