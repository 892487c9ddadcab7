"""The version of vLLM is asked of its program: older ones are told in their words, or refused with what they lack."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import Allocation, Answer, GpuShare, Launch, Service, Settings, SuitsItsProgram
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.versions import version_in

DRIVER = VllmDriver()
CARD = Allocation(gpus=(GpuShare(index=0, total_mb=24564, budget_mb=24564, vram_mb=9000),))


def suited(version: str, sleep_mode: str = "none", **options: Any) -> tuple[Launch, Launch]:
    """The launch for the newest vLLM, and that for one which answers `version`."""
    fields = {"vram_mb": 9000, "model_id": "org/m", "sleep_mode": sleep_mode, "unit_vars": options}
    service = Service(id="emb", driver="vllm", port=8001, **fields)
    launch = DRIVER.launch(service, CARD, Settings(vllm_bin="/opt/vllm/bin/vllm"))
    return launch, DRIVER.suited(service, launch, [Answer(exit_code=0, output=version)])


def test_it_asks_the_program_that_it_starts() -> None:
    assert isinstance(DRIVER, SuitsItsProgram)
    service = Service(id="emb", driver="vllm", port=8001, vram_mb=9000, model_id="m", unit_vars={"vllm_bin": "/v/vllm"})
    launch = DRIVER.launch(service, CARD, Settings())
    assert DRIVER.questions(service, launch, Settings()) == (("/v/vllm", "--version"),)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.33.0\n", (0, 33, 0)),
        ("INFO 11-26 16:12:01 [__init__.py:216] Automatically detected platform cuda.\n0.10.2\n", (0, 10, 2)),
        ("0.32.0+cpu", (0, 32, 0)),
        ("0.34.1.dev12+g1a2b3c4.d20261101", (0, 34, 1)),
        ("1.0rc1", (1, 0, 0)),
        ("0.1.dev7557+g977180c", None),
        ("0.3.1.dev3+g0bfc7a15d", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_the_version_is_found_in_what_it_writes(text: str, version: Any) -> None:
    assert version_in(text) == version


@given(st.text(max_size=200))
def test_whatever_it_writes_is_read_or_not(text: str) -> None:
    found = version_in(text)
    assert found is None or all(part >= 0 for part in found)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"runner": "pooling"}, ("--task", "embed")),
        ({"runner": "pooling", "convert": "classify"}, ("--task", "classify")),
        ({"convert": "embed"}, ("--task", "embed")),
        ({"runner": "generate"}, ("--task", "generate")),
        ({"runner": "auto", "convert": "none"}, ()),
    ],
)
def test_the_kind_of_model_is_said_in_the_words_of_its_version(options: dict[str, Any], task: tuple[str, ...]) -> None:
    newest, old = suited("0.9.2", extra_args=["--seed", "7"], **options)
    assert "--runner" in newest.argv or "--convert" in newest.argv
    assert not {"--runner", "--convert"} & set(old.argv)
    assert tuple(word for word in old.argv if word == "--task" or word in task) == task
    assert [w for w in old.argv if w not in task] == [
        w for w in newest.argv if w not in ("--runner", "--convert", *options.values())
    ]
    for version in ("0.10.1", "0.33.0", "1.0.0"):
        newest, same = suited(version, **options)
        assert same.argv == newest.argv


@pytest.mark.parametrize(
    ("version", "newer", "sleep_mode", "options", "says"),
    [
        ("0.10.2", "0.11.0", "none", {"kv_cache_memory_bytes": 2**30}, "use gpu_memory_utilization"),
        ("0.13.0", "0.14.0", "none", {"max_model_len": "auto"}, "set a number of tokens"),
        ("0.23.0", "0.24.0", "l2", {}, "use l1"),
    ],
)
def test_one_that_is_too_old_is_named_with_what_to_do(
    version: str, newer: str, sleep_mode: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=f"'emb': .* needs vLLM {newer} or newer") as caught:
        suited(version, sleep_mode, **options)
    assert says in str(caught.value)
    newest, same = suited(newer, sleep_mode, **options)
    assert same.argv == newest.argv


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("0.10.2", True), ("0.23.1", True), ("0.24.0", False), ("0.33.0", False), ("0.1.dev7557+g977180c", True)],
)
def test_gpus_have_names_where_its_version_takes_them(version: str, numbers: bool) -> None:
    asked_nothing, told = suited(version)
    assert asked_nothing.gpus_by_number, "every version takes numbers"
    assert told.gpus_by_number is numbers


@pytest.mark.parametrize("answer", [Answer(exit_code=None, output="0.1.0"), Answer(exit_code=1, output="0.1.0")])
def test_one_that_does_not_answer_is_taken_for_the_newest(answer: Answer) -> None:
    service = Service(id="emb", driver="vllm", port=8001, vram_mb=9000, model_id="m", unit_vars={"runner": "pooling"})
    launch = DRIVER.launch(service, CARD, Settings())
    assert DRIVER.suited(service, launch, [answer]) == launch
