"""Cards of different sizes: of each vLLM takes the same part, and the plan counts just that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, MakeMachine, Outcome

pytestmark = pytest.mark.sim

CARDS = "A:24564,B:16376"
TOTALS_MB = {0: 24564, 1: 16376}


def add(machine: Machine, *options: str, code: int = 0) -> Outcome:
    """A vLLM on both cards."""
    about = ("--id", "wide", "--driver", "vllm", "--model-id", "own/wide", "--gpus", "0,1")
    done = machine.quick("service", "add", *about, "--port", str(machine.unused.pop()), *options)
    assert done.code == code, done
    return done


def sums(machine: Machine) -> dict[int, int]:
    held = dict.fromkeys(TOTALS_MB, 0)
    for allocation in machine.allocations():
        held[allocation["gpu"]] += allocation["mb"]
    return held


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--vram-mb", "16000"), {0: 12000, 1: 8000}),
        pytest.param(
            ("--vram-mb", "100", "--set", "gpu_memory_utilization=0.9"), {0: 22107, 1: 14738}, marks=pytest.mark.slow
        ),
        pytest.param(
            ("--vram-mb", "16000", "--set", "kv_cache_memory_bytes=2147483648"),
            {0: 8000, 1: 8000},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["declared", "explicit", "kv-bytes"],
)
def test_each_card_gives_what_the_plan_says(make_machine: MakeMachine, options, expected) -> None:
    machine = make_machine(CARDS)
    add(machine, *options, "--sleep-mode", "l1")
    machine.ok("mode", "create", "wide", "--services", "wide")
    watch = machine.watch()
    for n in range(2):  # declared first, then as measured
        plan = machine.change("switch", "wide", watch=watch).json["plan"]
        held = sums(machine)
        for gpu, mb in expected.items():
            assert abs(held[gpu] - mb) <= 2, (n, held)
            assert held[gpu] <= plan["gpus"][gpu]["after_mb"] <= held[gpu] + 2, (n, held)
        machine.change("service", "sleep", "wide", watch=watch)
        machine.change("service", "wake", "wide", watch=watch)
        assert sums(machine) == held
        machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()


def test_what_would_overfill_a_card_is_refused_before(make_machine: MakeMachine) -> None:
    machine = make_machine(CARDS)
    add(machine, "--vram-mb", "31600")
    assert machine.quick("simulate", "--services", "wide").code == 0
    machine.ok("mode", "create", "wide", "--services", "wide,asr")
    refused = machine.quick("switch", "wide")
    assert (refused.code, refused.error["code"]) == (3, "does-not-fit")


def test_one_of_two_cards_is_not_two(make_machine: MakeMachine) -> None:
    machine = make_machine(CARDS)
    refused = add(machine, "--vram-mb", "100", "--set", "tensor_parallel_size=1", code=2)
    assert "tensor_parallel_size 1 needs as many gpus" in refused.error["why"]
