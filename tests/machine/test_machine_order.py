"""Dependencies, and numbers: what is measured is used, and an explicit option of the user decides."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = pytest.mark.sim

APP = "command=uvicorn app:app --host {host} --port {port}"


def when(outcome: Outcome, machine: Machine) -> dict[tuple[str, str], Any]:
    """When each step of a change began, and when it ended, by action and service."""
    run = machine.ok("history", "show", outcome.json["run_id"]).json["run"]
    return {
        (step["step"]["action"], step["step"]["service"]): (step["started_at"], step["started_at"] + step["seconds"])
        for step in run["steps"]
    }


@pytest.mark.slow
def test_dependencies_are_up_first_and_stop_last(machine: Machine) -> None:
    for name, needs in (("middle", "embedding"), ("front", "middle")):
        port = str(machine.unused.pop())
        fields = ("--driver", "fastapi", "--port", port, "--vram-mb", "600", "--set", APP, "--depends-on", needs)
        machine.ok("service", "add", "--id", name, *fields)
    chain = ("embedding", "middle", "front")
    machine.ok("mode", "create", "app", "--services", "front")

    up = when(machine.change("switch", "app"), machine)
    machine.whole("app")
    assert machine.states() == dict.fromkeys(chain, "running")
    assert all(up["start", a][1] <= up["start", b][0] for a, b in pairwise(chain))

    refused = machine.quick("service", "stop", "embedding")
    assert (refused.code, refused.error["code"]) == (1, "has-dependents"), refused
    assert "middle" in refused.error["message"]
    assert machine.states() == dict.fromkeys(chain, "running")
    machine.change("service", "stop", "embedding", "--cascade")
    machine.nothing_left()

    machine.change("service", "start", "front")
    assert machine.states() == dict.fromkeys(chain, "running")
    down = when(machine.change("switch", "blank"), machine)
    assert all(down["stop", b][1] <= down["stop", a][0] for a, b in pairwise(chain))
    machine.nothing_left()

    machine.fault("middle", "oom-at-start")
    failed = machine.change("switch", "app", code=6)
    assert "middle" in failed.error["message"]
    assert ("start", "front") not in {(s["action"], s["service"]) for s in failed.json["steps"] if s["seconds"]}
    machine.nothing_left()


def test_what_was_measured_is_planned_with(machine: Machine) -> None:
    first = machine.change("switch", "code").json
    machine.change("switch", "blank")
    plan = machine.ok("switch", "code", "--dry-run").json["plan"]
    assert {row["id"]: row["source"] for row in plan["services"]} == {
        "embedding-code": "measured",
        "glm-code": "measured",
    }
    lasted = {step["service"]: step["seconds"] for step in first["steps"] if step["action"] == "start"}
    expected = {step["service"]: step["expected_s"] for step in plan["steps"] if step["action"] == "start"}
    assert expected == pytest.approx(lasted, abs=0.1)
    sources = {row["id"]: row["source"] for row in first["plan"]["services"]}
    assert "measured" not in sources.values()


@pytest.mark.slow
def test_an_explicit_share_of_the_card_decides_what_a_vllm_takes(machine: Machine) -> None:
    machine.ok("mode", "create", "pair", "--services", "embedding,reranker")
    assert machine.ok("switch", "pair", "--dry-run").json["plan"]["gpus"][0]["peak_mb"] == 10_000
    machine.ok("service", "edit", "embedding", "--set", "gpu_memory_utilization=0.5")
    machine.ok("service", "edit", "reranker", "--set", "gpu_memory_utilization=0.6")
    refused = machine.change("switch", "pair", code=3)
    assert refused.json["status"] == "refused"
    assert refused.error["code"] == "does-not-fit"
    gpu = refused.json["plan"]["gpus"][0]
    assert gpu["peak_mb"] >= int(24564 * 1.1)
    machine.nothing_left()
    machine.ok("service", "edit", "reranker", "--set", "gpu_memory_utilization=0.3")
    machine.change("switch", "pair")
    assert machine.held()["embedding"] == pytest.approx(24564 * 0.5, abs=2)
    machine.whole("pair")
