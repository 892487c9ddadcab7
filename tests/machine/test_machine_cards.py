"""Cards that are known by their names: what is kept and told of them, and services that ask for what they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine


def told(machine: Machine, name: str) -> list[tuple[str, str, str]]:
    checks = machine.quick("doctor").json["checks"]
    return [(check["level"], check["message"], check["hint"]) for check in checks if check["name"] == name]


@pytest.mark.slow
def test_a_card_is_named_and_what_it_does_not_compute_is_told(make_machine: Any) -> None:
    machine: Machine = make_machine("RTX 3090:24564,RTX 4090:24564,Tesla T4:15360")
    rows = machine.sql("SELECT gpu_index, architecture, compute_capability FROM gpu_profiles ORDER BY 1")
    assert rows == [(0, "Ampere", "8.6"), (1, "Ada", "8.9"), (2, "Turing", "7.5")]
    assert machine.ok("init").json["gpus"][0] == "0: RTX 3090, 24564 MiB (Ampere, compute capability 8.6)"
    kinds = [message for number in range(3) for _, message, _ in told(machine, f"gpu {number}")[1:]]
    assert kinds == [
        "Ampere, compute capability 8.6, computes in bf16, memory 936 GB/s, made for PCIe 4",
        "Ada, compute capability 8.9, computes in bf16 and fp8, memory 1008 GB/s, made for PCIe 4",
        "Turing, compute capability 7.5, computes neither in bf16 nor in fp8 itself, memory 320 GB/s, made for PCIe 3",
    ]

    machine.ok("service", "edit", "embedding", "--set", "kv_cache_dtype=fp8", "--gpus", "0")
    ((level, message, hint),) = told(machine, "service embedding")
    assert (level, hint) == ("ok", "--set kv_cache_dtype=auto")
    assert "kv_cache_dtype=fp8" in message
    assert "GPU 0 (RTX 3090) has 8.6" in message
    machine.ok("service", "edit", "embedding", "--gpus", "1")
    assert told(machine, "service embedding") == []
    changed = ("--set", "kv_cache_dtype=auto", "--set", "dtype=bfloat16")
    machine.ok("service", "edit", "embedding", "--gpus", "any", *changed)
    ((level, message, hint),) = told(machine, "service embedding")
    assert (level, hint) == ("warning", "--set dtype=float16, or keep it to the others: --gpus")
    assert "GPU 2 (Tesla T4) has 7.5: " in message
    machine.ok("service", "edit", "embedding", "--gpus", "0", "--set", "dtype=auto", "--set", "quantization=fp8")
    ((level, message, _),) = told(machine, "service embedding")
    assert level == "ok"
    assert message.endswith("there it is done by other means, slower or not at all")
