"""What drivers share: options, environment and flag checks, metrics, log rules and polling."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import (
    Args,
    Env,
    LogRule,
    Options,
    Service,
    Word,
    first_fatal,
    metric_sum,
    parse_options,
    poll,
    refuse_flags,
)
from gpumod.testing.web import QuickClock


class Some(Options):
    size: int = 1
    name: Word | None = None
    args: Args = ()
    env: Env = {}


def options(**unit_vars: Any) -> Some:
    return parse_options(Some, Service(id="x", driver="d", unit_vars=unit_vars))


def test_options_are_typed_and_every_problem_is_told_at_once() -> None:
    assert options(size="3", args="a 'b c'", env="A=1 B=x=y").model_dump() == {
        "size": 3, "name": None, "args": ("a", "b c"), "env": {"A": "1", "B": "x=y"},
    }  # fmt: skip
    assert options(env={"N": 3, "F": 0.5}).env == {"N": "3", "F": "0.5"}
    with pytest.raises(ValueError, match="'x'") as caught:
        options(sise=3, name="--flag", zzz=1)
    for text in ("did you mean size", "'name'", "known: args, env, name, size"):
        assert text in str(caught.value)


def test_what_is_missing_was_not_given() -> None:
    class Needs(Options):
        image: Word

    with pytest.raises(ValueError, match=r"option 'image': is missing$"):
        parse_options(Needs, Service(id="x", driver="d"))


@pytest.mark.parametrize(
    "env",
    [
        {"LD_PRELOAD": "x"}, {"PATH": "x"}, {"PYTHONPATH": "x"}, {"CUDA_VISIBLE_DEVICES": "0"}, {"GPUMOD_NONCE": "x"},
        {"A B": "x"}, {"": "x"}, {"A": True}, {"A": None}, {"A": ["x"]}, "A", ["=x"], 3,
    ],
)  # fmt: skip
def test_an_environment_that_changes_what_runs_is_refused(env: Any) -> None:
    with pytest.raises(ValueError, match="env"):
        options(env=env)


@given(st.dictionaries(st.from_regex(r"\AX[A-Z0-9_]{0,9}\Z"), st.text(st.characters(exclude_categories=("C", "Z")))))
def test_an_environment_is_the_same_as_a_mapping_and_as_words(env: dict[str, str]) -> None:
    assert options(env=env).env == env
    assert options(env=[f"{name}={value}" for name, value in env.items()]).env == env


DENIED = ("--host", "--api-key*", "-tp")


@pytest.mark.parametrize(
    "args", [["--host"], ["--host=x"], ["--api_key_file", "x"], ["-tp", "2"], ["a", "--host"], ["--"]]
)
def test_denied_flags_are_found_however_they_are_written(args: list[str]) -> None:
    with pytest.raises(ValueError, match="extra_args"):
        refuse_flags(args, DENIED)


def test_abbreviations_are_denied_only_where_the_runtime_takes_them() -> None:
    refuse_flags(["--hos", "x", "--hosted", "-t", "host"], DENIED)
    with pytest.raises(ValueError, match="--hos"):
        refuse_flags(["--hos"], DENIED, abbreviations=True)
    refuse_flags(["--hosted", "--api", "--no-hosted"], ("--host",), abbreviations=True)


@pytest.mark.parametrize("arg", ["-t", "-t=4", "-tp=4", "-qawq", "-q=awq", "-q"])
def test_what_argparse_makes_of_one_dash_is_denied(arg: str) -> None:
    denied = ("-tp", "-q")
    refuse_flags(["-", "-1", "-x", "-sc", "-dp", "--q", "--tp"], denied, abbreviations=True)
    with pytest.raises(ValueError, match="extra_args"):
        refuse_flags([arg], denied, abbreviations=True)
    if arg in ("-t", "-t=4", "-qawq"):
        refuse_flags([arg], denied)


@pytest.mark.parametrize("arg", ["--no-host", "--no_host", "--no-host=1", "--no-ssl-x"])
def test_the_opposite_of_a_denied_flag_is_denied(arg: str) -> None:
    with pytest.raises(ValueError, match="extra_args"):
        refuse_flags([arg], ("--host", "--ssl-*"))
    with pytest.raises(ValueError, match="--no-ho"):
        refuse_flags(["--no-ho"], ("--host",), abbreviations=True)


@pytest.mark.parametrize("value", ["-x", "--x=1", " a", "a b", "", "a\n", "a;b"])
def test_a_word_is_one_value_and_no_flag(value: str) -> None:
    with pytest.raises(ValueError, match="name"):
        parse_options(Some, Service.model_construct(id="x", driver="d", unit_vars={"name": value}))


def test_a_wrong_option_is_named_without_its_secret() -> None:
    told = {"size": "serve --api-key hunter2", "api_token": "hunter2", "args": [1, "--token", "hunter2"]}
    with pytest.raises(ValueError, match=r"got 'serve \(secret\)'") as caught:
        options(**told)
    assert "hunter2" not in str(caught.value)


METRICS = """# TYPE a:running gauge
a:running{engine="0"} 2.0
a:running{engine="1"} 1
a:running_total 50
a:waiting 4
a:broken x
a:lost NaN
"""


async def test_metrics_are_summed_by_their_whole_name() -> None:
    assert metric_sum(METRICS, "a:running", "a:waiting") == 7
    assert metric_sum(METRICS, "a:broken", "a:lost", "a:none") is None


@given(st.text())
def test_metrics_of_any_text_are_no_traceback(text: str) -> None:
    metric_sum(text, "a")


RULES = (
    LogRule("out-of-memory", re.compile(r"need (?P<need>\S+) (?P<need_unit>\w+), has (?P<have>\S+)"), "{need}?", "GiB"),
    LogRule("bad-model", re.compile(r"no model")),
    LogRule("crashed", re.compile(r"died")),
)


def test_the_first_telling_line_wins_over_a_mere_crash() -> None:
    found = first_fatal(RULES, ["died", "need 512.5 MiB, has 0.25", "no model"])
    assert found is not None
    assert (found.code, found.need_mb, found.have_mb, found.hint) == ("out-of-memory", 513, 256, "512.5?")
    assert (found := first_fatal(RULES, ["fine", "died"])) is not None
    assert (found.code, found.line) == ("crashed", "died")
    assert (found := first_fatal(RULES, ["need many MiB, has x"])) is not None
    assert (found.need_mb, found.have_mb) == (None, None)
    assert first_fatal(RULES, ["fine"]) is None


async def test_polling_begins_after_10_ms_never_pauses_over_50_and_gives_up_in_time() -> None:
    clock = QuickClock()
    asked: list[float] = []

    async def never() -> str | None:
        asked.append(clock.time_s - 1000)
        return None

    assert await poll(clock, never, 5.0) is None
    assert asked[0] == 0
    assert asked[1] == pytest.approx(0.01)
    assert asked[-1] == pytest.approx(5.0)
    assert max(b - a for a, b in pairwise(asked)) <= 0.05 + 1e-9

    async def at_once() -> str:
        return "x"

    assert await poll(clock, at_once, 0) == "x"
