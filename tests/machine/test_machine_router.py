"""A router's members in switches: the card after every step is as it was planned, each fault of an unload is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cases import first

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Watch

pytestmark = pytest.mark.sim

ROUTER, TOTAL_MB, MEMBER_MB, LAG_S = "llama-router", 24564, 9000, 0.6
"""Memory comes back so long after its process ended: two members fit beside one another, three do not."""
NOTICED_S = 0.5
"""So much later the watcher may have noticed what the step had seen."""


def prepare(machine: Machine) -> None:
    """Modes of two members each: `dusk` lets one sleep to make room, `dawn` has it awake."""
    for name in ("ada", "bob", "cyd"):
        path = ("--model-path", f"/models/{name}.gguf", "--vram-mb", str(MEMBER_MB), "--startup-timeout", "20")
        words = ("--driver", "llamacpp", "--host-service", ROUTER, "--sleep-mode", "router", *path)
        machine.ok("service", "add", "--id", name, *words, "--set", "stop_timeout_s=1")
    machine.ok("mode", "create", "dawn", "--services", f"{ROUTER},ada,bob")
    machine.ok("mode", "create", "dusk", "--services", f"{ROUTER},ada,bob,cyd", "--asleep", "bob")
    machine.sim.configure(lag_s=LAG_S)


def check_every_step(events: list[dict[str, Any]], steps: list[tuple[dict[str, Any], float]]) -> None:
    """When a step is done, the card holds no more than the step said that it would, and no host RAM was taken."""
    for step, ended_at in steps:
        after_mb = step["gpus"][0]["after_mb"] if step["gpus"] else TOTAL_MB  # no GPU: a router takes none
        before = [event["used_mb"]["0"] for event in events if event["at"] <= ended_at][-1:]
        noticed = [event["used_mb"]["0"] for event in events if ended_at < event["at"] <= ended_at + NOTICED_S]
        assert min(before + noticed) <= after_mb, (step, before, noticed)
        assert not step["ram"] or step["ram"]["before_mb"] == step["ram"]["after_mb"], step


def steps_of_last_run(machine: Machine) -> list[tuple[dict[str, Any], float]]:
    """The steps of the last run as they were planned, and when each ended."""
    last = "(SELECT id FROM runs ORDER BY seq DESC LIMIT 1)"
    rows = machine.sql(f"SELECT definition, started_at, seconds FROM run_steps WHERE run_id = {last}")  # noqa: S608
    return [(json.loads(definition)["step"], started_at + seconds) for definition, started_at, seconds in rows]


def pids(machine: Machine) -> dict[str, int]:
    return {row["id"]: row["pid"] for row in machine.status()["services"] if row["pid"]}


@pytest.mark.slow
def test_members_sleep_and_wake_in_switches(machine: Machine) -> None:
    prepare(machine)
    watch: Watch = machine.watch()
    done: list[tuple[dict[str, Any], float]] = []
    for mode, asleep in (("dawn", set()), ("dusk", {"bob"}), ("dawn", set())):
        before = pids(machine)
        plan = machine.change("switch", mode, watch=watch).json["plan"]
        done += steps_of_last_run(machine)
        assert {name for name, state in machine.states().items() if state == "sleeping"} == asleep
        kept = {"ada": MEMBER_MB, "bob" if mode == "dawn" else "cyd": MEMBER_MB}
        assert machine.held() == kept
        assert plan["gpus"][0]["after_mb"] == sum(kept.values())
        again = pids(machine)
        assert not before or all(again[name] == before[name] for name in (ROUTER, "ada"))
    actions = [(step["action"], step["service"]) for step, _ in done]
    assert actions.index(("sleep", "bob")) < actions.index(("start", "cyd"))
    assert ("wake", "bob") in actions
    machine.change("switch", "blank", watch=watch)
    done += steps_of_last_run(machine)
    machine.nothing_left()
    watch.check()
    check_every_step(watch.events(), done)


FAULTS = (
    ("sleep-500", 6, "unload-failed", "simulated fault"),
    ("sleep-hangs", 6, "unload-timeout", ""),
    ("sleep-frees-nothing", 7, "memory-not-released", str(MEMBER_MB)),  # nor is there room on the way back
)


@pytest.mark.parametrize(("fault", "code", "error", "why"), first(0, FAULTS))
def test_a_fault_of_an_unload_ends_a_switch_and_nothing_else(
    machine: Machine, fault: str, code: int, error: str, why: str
) -> None:
    prepare(machine)
    machine.change("switch", "dawn")
    before = pids(machine)
    machine.fault("bob", fault)
    failed = machine.change("switch", "dusk", code=code)
    assert failed.error["code"] == error, failed
    assert "bob" in failed.error["message"]
    assert why in failed.error["why"]
    machine.clear()
    if code == 7:
        machine.change("recover", "--rollback")
    machine.change("switch", "dusk")
    assert machine.held() == {"ada": MEMBER_MB, "cyd": MEMBER_MB}
    assert all(pids(machine)[name] == before[name] for name in (ROUTER, "ada"))
    machine.whole("dusk")


@pytest.mark.slow
def test_what_llama_server_does_not_take_never_reaches_the_router(machine: Machine) -> None:
    prepare(machine)
    machine.change("service", "start", "ada")
    before = pids(machine)
    machine.ok("service", "edit", "bob", "--set", 'extra_args=["--no-such-option"]')
    refused = machine.change("switch", "dawn", code=2)
    assert refused.error["code"] == "bad-service", refused
    assert "llama-server (version 11434 (b11434-sim)) does not take --no-such-option" in refused.error["why"]
    assert machine.states() == {ROUTER: "running", "ada": "running"}
    machine.ok("service", "edit", "bob", "--set", 'extra_args=["--jinja", "--temp=0.1"]')
    machine.change("switch", "dawn")
    assert all(pids(machine)[name] == before[name] for name in (ROUTER, "ada"))
