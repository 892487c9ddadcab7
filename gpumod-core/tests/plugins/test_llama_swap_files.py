"""A llama-swap configuration is read as llama-swap reads it: macros, ports, commands, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.errors import UsageError
from gpumod.operations.llama_swap import SwapModel, models_of


def one(said: Any, environ: dict[str, str] | None = None, **config: Any) -> SwapModel:
    (model,) = models_of({"models": {"m": said}, **config}, environ or {})
    return model


def test_macros_of_all_kinds() -> None:
    macros = {"bin": "${env.HOME}/llama-server --port ${PORT}", "args": "${bin} -c ${ctx}", "ctx": 4096, "on": True}
    said = {"cmd": "${args} --alias ${MODEL_ID} --x ${on}", "macros": {"ctx": 8192}}
    model = one(said, {"HOME": "/home/ann"}, macros=macros, startPort=9000)
    assert model.at(9000) == (
        *("/home/ann/llama-server", "--port", "9000", "-c", "8192", "--alias", "m", "--x", "True"),
    )
    assert (model.port, model.counted) == (9000, True)


def test_commands_over_lines_with_comments() -> None:
    said = "# first\nllama-server --port ${PORT} \\\n  # inside\n  -m 'my model.gguf'\n"
    assert one({"cmd": said}).at(1) == ("llama-server", "--port", "1", "-m", "my model.gguf")


def test_variables_before_the_command_are_its_own() -> None:
    model = one({"cmd": "env CUDA_VISIBLE_DEVICES=1 A=b=c llama-server -m x=y", "env": ["A=0", "B=1"]})
    assert model.words == ("llama-server", "-m", "x=y")
    assert model.env == {"A": "b=c", "B": "1", "CUDA_VISIBLE_DEVICES": "1"}
    assert one({"cmd": "env -i A=b x"}).words == ("env", "-i", "A=b", "x")
    assert one({"cmd": "env"}).words == ("env",)


def test_a_name_may_be_a_number() -> None:
    (model,) = models_of({"models": {7: {"cmd": "x"}}}, {})
    assert (model.name, model.problem) == ("7", "")


def test_ports_are_counted_by_name_over_those_that_use_them() -> None:
    models = {"b": {"cmd": "x ${PORT}"}, "a": {"cmd": "x ${PORT}"}, "aa": {"cmd": "x 1", "proxy": "http://localhost:7"}}
    found = {model.name: (model.port, model.counted) for model in models_of({"models": models}, {})}
    assert found == {"a": (5800, True), "aa": (7, False), "b": (5801, True)}
    assert one({"cmd": "x --port 9"}).port is None  # its command says it


def test_health_time_and_what_is_left_out() -> None:
    model = one({"cmd": "x", "checkEndpoint": "/ok", "ttl": 60, "aliases": ["y"], "cmdStop": "z"}, healthCheckTimeout=3)
    assert (model.health, model.timeout_s) == ("/ok", 15.0)
    assert model.notes == (
        "left out, for it is the proxy's own: aliases, cmdStop",
        "ttl 60 is not carried: nothing is stopped for being idle",
    )
    assert one({"cmd": "x", "checkEndpoint": "none"}).health is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "no cmd"),
        ({"cmd": "x ${nothing}"}, "macro nothing is not defined"),
        ({"cmd": "x ${env.NOTHING}"}, "variable NOTHING is not set"),
        ({"cmd": "x ${a}", "macros": {"a": "${b}", "b": "${a}"}}, "circle"),
        ({"cmd": "x 'open"}, "cannot be read"),
        ({"cmd": "x ${m40}", "macros": {f"m{n + 1}": f"${{m{n}}}" * 2 for n in range(40)} | {"m0": "x"}}, "more than"),
        ({"cmd": "x", "proxy": "http://far:1"}, "not this machine"),
        ({"cmd": ["x"]}, "a list or a mapping"),
        ({"cmd": "x ${a}", "macros": {"a": ["x"]}}, "a list or a mapping"),
        ("x", "no mapping"),
    ],
)
def test_a_model_that_cannot_be_read_says_why(said: Any, why: str) -> None:
    assert why in one(said).problem


@pytest.mark.parametrize("config", [{}, {"models": []}, {"models": {}}])
def test_a_file_without_models_is_none(config: Any) -> None:
    with pytest.raises(UsageError, match="names no models"):
        models_of(config, {})


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["${a}", "${PORT}", "x ${MODEL_ID}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["cmd", "proxy", "env", "macros", "ttl", "aliases", "checkEndpoint", "name"])


@given(st.dictionaries(st.text(max_size=5), st.dictionaries(KEYS, ANY) | ANY, min_size=1, max_size=3), ANY, ANY)
def test_whatever_stands_in_it_breaks_nothing(models: Any, macros: Any, port: Any) -> None:
    found = models_of({"models": models, "macros": macros, "startPort": port}, {})
    assert len(found) == len(models)
    for model in found:
        assert model.problem or model.words
