"""A signal that comes when a change has just ended does not take its result away."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from pydantic import field_serializer

from gpumod.cli.last_word import USUAL, LastWord
from gpumod.cli.streams import document
from gpumod.domain.base import Frozen


@pytest.fixture
def word() -> Iterator[LastWord]:
    before = {number: signal.getsignal(number) for number in USUAL}
    for number, usual in USUAL.items():
        signal.signal(number, usual)
    made = LastWord()
    made.take()
    yield made
    made.give_back(leaving=False)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_key_ends_the_program_as_ever_until_the_change_has_ended(word: LastWord) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    word.due = True
    for number in USUAL:
        signal.raise_signal(number)
    word.give_back(leaving=False)
    assert {number: signal.getsignal(number) for number in USUAL} == USUAL


def test_who_leaves_is_deaf_only_where_something_is_due(word: LastWord) -> None:
    word.give_back(leaving=True)
    assert {number: signal.getsignal(number) for number in USUAL} == USUAL
    word.take()
    word.due = True
    word.give_back(leaving=True)
    assert all(signal.getsignal(number) is signal.SIG_IGN for number in USUAL)


def test_what_is_ignored_or_somebody_elses_stays_so(word: LastWord) -> None:
    word.give_back(leaving=False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    word.take()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


class Hit(Frozen):
    """A result during whose printing a key is hit."""

    value: int = 0

    @field_serializer("value")
    def hit(self, value: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return value


class Broken(Frozen):
    value: int = 0

    @field_serializer("value")
    def broken(self, value: int) -> int:
        raise RuntimeError("no interrupt")


def test_a_key_while_a_result_is_written_as_json_is_no_bug(word: LastWord) -> None:
    with pytest.raises(KeyboardInterrupt):
        document(Hit())
    word.due = True  # as after a change
    assert document(Hit(), None) == '{"value":0}'
    with pytest.raises(ValueError, match="no interrupt"):
        document(Broken())
