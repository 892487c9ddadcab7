"""The account of one resource."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumod.planner.account import Account


def test_initial_memory_waits_for_nobody() -> None:
    account = Account(100, 40)
    assert account.ready_at(60) == 0.0
    assert account.draw(60, 0.0) == set()
    assert account.initial == 60


def test_what_was_given_last_is_drawn_first() -> None:
    account = Account(100, 50)
    account.give(30, 1, 1.0)
    account.give(20, 2, 2.0)
    assert account.draw(30, 3.0) == {1, 2}
    assert account.initial == 0
    assert account.free == 70


def test_one_that_begins_early_does_not_wait() -> None:
    account = Account(100, 50)
    account.give(50, 1, 1.0)
    assert account.ready_at(50) == 0.0
    assert account.draw(50, 0.0) == set()
    assert account.ready_at(10) == 1.0


def test_a_debt_is_paid_first_and_its_payers_are_waited_for() -> None:
    account = Account(20, 30)
    account.give(10, 1, 5.0)
    account.give(10, 2, 1.0)
    assert account.ready_at(10) == 5.0
    assert account.draw(10, 5.0) == {1, 2}
    assert account.over == 0


def test_an_overdraft_takes_all_and_says_how_much_is_missing() -> None:
    account = Account(100, 90)
    account.give(20, 1, 1.0)
    assert account.ready_at(50) == 1.0
    assert account.draw(50, 1.0) == {1}
    assert (account.over, account.debt, account.free) == (20, 20, 0)
    account.give(30, 2, 2.0)
    assert (account.debt, account.free) == (0, 10)


@given(st.integers(0, 50), st.integers(0, 80), st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=30))
def test_mebibytes_are_neither_lost_nor_made(budget: int, before: int, events: list[tuple[bool, int]]) -> None:
    account = Account(budget, before)
    held = before
    for n, (gives, amount) in enumerate(events):
        if gives:
            given_mb = min(amount, held)
            account.give(given_mb, n, float(n))
            held -= given_mb
        else:
            account.draw(amount, max(account.ready_at(amount), 0.0))
            held += amount
        assert sum(token.amount for token in account.tokens) == account.free
        assert budget - held == account.free - account.debt
        assert account.free == 0 or account.debt == 0
