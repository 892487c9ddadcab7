"""The account of one resource: who may use which MiB, and whom it has to wait for.

Every free MiB is a token that was free in the beginning or was given back by a step. A step that takes MiB draws
tokens and waits for the steps that gave them, so a token has one owner at a time *whatever* else runs when: under
every interleaving that the waiting allows, the sum of what is held stays within what was held plus what was drawn
of the memory free in the beginning.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import NamedTuple

INITIAL = -1
"""The giver of what was free in the beginning."""


class Token(NamedTuple):
    """`amount` MiB that `giver` gives back at `at` seconds (predicted)."""

    at: float
    giver: int
    amount: int


class Account:
    """One GPU's memory, or the host's. All in MiB.

    `debt` is what is held beyond the budget: by a foreign process that grew, or by an overdraft. What is given back
    pays it first, and who draws afterwards waits for those who paid. `over` is the largest debt right after an
    overdraft; it is 0 for a plan that fits. `initial` is what was drawn of the memory free in the beginning.
    """

    def __init__(self, budget_mb: int, before_mb: int) -> None:
        free = budget_mb - before_mb
        self.tokens = [Token(-1.0, INITIAL, free)] if free > 0 else []
        self.free = max(0, free)
        self.debt = max(0, -free)
        self.initial = 0
        self.over = 0
        self._payers: list[int] = []
        self._paid_at = 0.0
        self._givers: list[int] = []
        self._given_at = 0.0

    def ready_at(self, need: int) -> float:
        """The earliest time at which `need` MiB are free; for an overdraft, when all that comes has come."""
        if need <= 0:
            return 0.0
        if need > self.free:
            return self._given_at
        for token in self.tokens:
            need -= token.amount
            if need <= 0:
                return max(token.at, self._paid_at)
        raise AssertionError("the tokens do not add up to what is free")

    def draw(self, need: int, at: float) -> set[int]:
        """Take `need` MiB of what is free at `at`, the latest given first. Returns the steps to wait for."""
        if need <= 0:
            return set()
        if need > self.free:
            return self._overdraw(need)
        waits = set(self._payers)
        self.free -= need
        last = bisect_right(self.tokens, at, key=lambda token: token.at)
        while need > 0:
            last -= 1
            token = self.tokens[last]
            taken = min(need, token.amount)
            need -= taken
            if token.giver == INITIAL:
                self.initial += taken
            else:
                waits.add(token.giver)
            if taken == token.amount:
                del self.tokens[last]
            else:
                self.tokens[last] = token._replace(amount=token.amount - taken)
        return waits

    def _overdraw(self, need: int) -> set[int]:
        self.initial += sum(token.amount for token in self.tokens if token.giver == INITIAL)
        self.debt += need - self.free
        self.over = max(self.over, self.debt)
        self.tokens.clear()
        self.free = 0
        return set(self._givers)

    def give(self, amount: int, giver: int, at: float) -> None:
        """`giver` gives `amount` MiB back at `at`."""
        if amount <= 0:
            return
        self._givers.append(giver)
        self._given_at = max(self._given_at, at)
        if self.debt > 0:
            paid = min(self.debt, amount)
            self.debt -= paid
            amount -= paid
            self._payers.append(giver)
            self._paid_at = max(self._paid_at, at)
        if amount > 0:
            insort(self.tokens, Token(at, giver, amount))
            self.free += amount
