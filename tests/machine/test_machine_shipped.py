"""The shipped presets, simulated: what fits a card of 24 GB, by how much the rest does not, and what would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine


def simulated(machine: Machine, *args: str, code: int = 0) -> Any:
    made = machine.quick("simulate", *args)
    assert made.code == code, made
    return made.json


@pytest.mark.parametrize("total", [None, 32768])
def test_rag_takes_turns_within_its_plan(machine: Machine, total: int | None) -> None:
    made = simulated(machine, "--mode", "rag", *([] if total is None else ["--gpu-total", str(total)]))
    (gpu,) = made["gpus"]
    assert (made["verdict"], gpu["budget_mb"]) == ("fits-time-shared", (total or 24564) - 512)
    assert gpu["after_mb"] <= gpu["peak_mb"] <= gpu["budget_mb"]
    assert {turn["service"] for turn in made["turns"]} == {"hyde", "reranker", "chat"}
    assert all(6500 < turn["peak_mb"] <= gpu["budget_mb"] for turn in made["turns"])
    touched = [reserved for step in made["steps"] for reserved in step["gpus"]]
    assert touched
    assert all(reserved["peak_mb"] <= gpu["peak_mb"] for reserved in touched)


def test_rag_does_not_fit_a_card_of_12_gb(machine: Machine) -> None:
    made = simulated(machine, "--mode", "rag", "--gpu-total", "12000", code=3)
    (gpu,) = made["gpus"]
    assert made["verdict"] == "does-not-fit"
    assert gpu["exceeds_by_mb"] == gpu["peak_mb"] - gpu["budget_mb"] > 0


def test_code_and_a_reranker_miss_by_3548_and_layers_on_the_cpu_make_room(machine: Machine) -> None:
    made = simulated(machine, "--mode", "code", "--add", "reranker", code=3)
    assert made["gpus"][0]["exceeds_by_mb"] == 3548
    offered = made["alternatives"]
    assert {one["kind"] for one in offered} >= {"cpu-offload", "smaller-preset", "context", "time-share", "leave-out"}
    assert all(one["verdict"].startswith("fits") and one["peak_mb"] <= 24052 for one in offered)
    offload = next(one for one in offered if one["kind"] == "cpu-offload")
    assert offload["changes"]["unit_vars"] == {"glm-code": {"n_gpu_layers": 21}}
    assert offload["peak_mb"] == 2500 + offload["changes"]["vram_mb"]["glm-code"] + 6000


@pytest.mark.slow
def test_what_layers_on_the_cpu_promise_holds(machine: Machine) -> None:
    made = simulated(machine, "--mode", "code", "--add", "reranker", code=3)
    offload = next(one for one in made["alternatives"] if one["kind"] == "cpu-offload")
    machine.change("switch", "code", "--with", offload["id"], watch=machine.watch())
    assert machine.states() == dict.fromkeys(("embedding-code", "glm-code", "reranker"), "running")
    assert machine.held()["glm-code"] <= offload["changes"]["vram_mb"]["glm-code"]
    machine.ask("glm-code")
