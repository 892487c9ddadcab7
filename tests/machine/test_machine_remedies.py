"""A start that fails and proposes in its log what would do: the switch is rolled back, and offers it by an id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim


def context_of(machine: Machine, service: str) -> str:
    """What the running vLLM was told."""
    (handle,) = [row for row in machine.allocations() if row["service"] == service]
    argv = psutil.Process(handle["pid"]).cmdline()
    return argv[argv.index("--max-model-len") + 1]


@pytest.mark.slow
def test_a_context_that_vllm_estimates_can_be_taken(machine: Machine) -> None:
    machine.ok("mode", "create", "think", "--services", "hyde")
    machine.change("service", "start", "embedding")
    machine.fault("hyde", "short-context", 2048)
    failed = machine.change("switch", "think", code=6)
    assert machine.states() == {"embedding": "running"}
    error = failed.error
    assert (error["code"], error["details"]["need_mb"], error["details"]["have_mb"]) == ("out-of-memory", 512, 256)
    (found,) = error["details"]["alternatives"]
    assert "gpumod service edit hyde --set max_model_len=2048" in error["hint"]
    assert f"gpumod switch think --with {found}" in error["hint"]
    machine.change("switch", "think", "--with", found)
    machine.whole("think")
    assert context_of(machine, "hyde") == "2048"
    machine.ask("hyde")
    assert machine.ok("service", "show", "hyde").json["service"]["unit_vars"]["max_model_len"] == 4096
