"""Texts of the command line into values, and texts from outside into what a terminal may show."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.cli.inputs import gpu_indices, key_value, key_values, number_of, numbers_of, sim_cards, split_list
from gpumod.cli.text import safe, safe_lines
from gpumod.domain.base import has_control_characters

KEYS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(KEYS, JSON)
def test_json_values_are_what_they_say(key: str, value: Any) -> None:
    assert key_value(f"{key}={json.dumps(value)}") == (key, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=true", ("a", True)),
        ("a=0.5", ("a", 0.5)),
        ("a=plain words", ("a", "plain words")),
        ("a=x=y", ("a", "x=y")),
        ("a=", ("a", "")),
        ("a=NaN", ("a", "NaN")),
        ('a="8"', ("a", "8")),
        ('a={"X": "1"}', ("a", {"X": "1"})),
        ("a=[1,", ("a", "[1,")),
        ("command=uvicorn app:app --port {port}", ("command", "uvicorn app:app --port {port}")),
    ],
)
def test_set_takes_json_or_text(text: str, expected: tuple[str, Any]) -> None:
    assert key_value(text) == expected


@pytest.mark.parametrize("text", ["a", "=1", " =1", ""])
def test_set_without_key_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        key_value(text)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="twice"):
        key_values(["a=1", "a=2"])


@given(KEYS, st.integers(0, 10**9))
def test_context_takes_numbers(service: str, tokens: int) -> None:
    assert number_of(f"{service}={tokens}", "--context") == (service, tokens)
    assert numbers_of([f"{service}={tokens}k"], "--context") == {service: tokens * 1024}


@pytest.mark.parametrize("text", ["chat", "chat=", "chat=x", "chat=-1", "=5", "chat=1.5", "chat=k", "chat=²"])
def test_context_refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(click.BadParameter, match="SERVICE=NUMBER"):
        number_of(text, "--context")


def test_lists_are_split_at_commas() -> None:
    assert split_list("a, b,,c ") == ("a", "b", "c")
    assert split_list("") == ()


def test_gpus_are_any_or_indices() -> None:
    assert gpu_indices("any") == "any"
    assert gpu_indices("0,2") == (0, 2)
    for text in ("", "x", "0,any", "-1", "0.5"):
        with pytest.raises(click.BadParameter, match="indices"):
            gpu_indices(text)


def test_cards_have_names_and_sizes() -> None:
    assert sim_cards("RTX 4090:24564,A: B:8192") == (("RTX 4090", 24564), ("A: B", 8192))
    for text in ("", "RTX", "RTX:", ":24564", "RTX:24GB", "a:1,b"):
        with pytest.raises(click.BadParameter, match="RTX 4090:24564"):
            sim_cards(text)


@given(st.text())
def test_safe_text_has_no_control_characters(text: str) -> None:
    shown = safe(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert safe(shown) == shown


@given(st.text())
def test_harmless_text_stays_as_it_is(text: str) -> None:
    if not has_control_characters(text):
        assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jx", "x"),
        ("a\r\nb\tc", "a  b c"),
        ("a\u202eb", "ab"),
        ("[bold]x[/bold] :smile:", "[bold]x[/bold] :smile:"),
        ("\x1b", ""),
    ],
)
def test_sequences_are_removed_whole(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_lines_stay_lines() -> None:
    assert safe_lines("a\n  b\x1b[1m\tc\n") == ["a", "  b c"]
