"""vLLM's sleep levels in switches: VRAM and host RAM at every step, and each fault of a sleep under its name."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gpumod_sim.ledger import Ledger
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome, Watch

pytestmark = pytest.mark.sim

SLEEPER, OTHER = "hyde", "embedding"
AWAKE_MB, RESIDUE_MB = 5000, 1410
"""What hyde is declared to take, and the most that a sleeper of its kind was seen to keep."""
WEIGHTS_MB = 3200
"""About: 1.7 thousand million parameters of two bytes."""


def prepare(machine: Machine, level: str) -> None:
    """The mode `rest`, in which hyde sleeps and another one serves; `think`, in which hyde serves alone."""
    quick = ("--set", "sleep_timeout_s=0.7", "--set", "wake_timeout_s=0.7", "--startup-timeout", "4")
    machine.ok("service", "edit", SLEEPER, "--sleep-mode", level, *quick)
    machine.ok("mode", "create", "rest", "--services", f"{OTHER},{SLEEPER}", "--asleep", SLEEPER)
    machine.ok("mode", "create", "think", "--services", SLEEPER)


def ram_mb(machine: Machine) -> dict[str, int]:
    """Host RAM that sleepers hold, by the ledger."""
    return {row["service"]: row["mb"] for row in Ledger(machine.sim).public()["ram"] if row["mb"]}


def check_memory(watch: Watch, outcomes: list[Outcome]) -> list[int]:
    """At every moment VRAM and host RAM were within what the plan of that change said; host RAM's amounts, as they
    came."""
    watch.check()
    held: dict[str, int] = {}
    seen: list[int] = []
    for event in watch.events():
        if event.get("gpu") is None and event.get("event") == "hold":
            held[event["service"]] = event["mb"]
            seen.append(sum(held.values()))
            during = [
                outcome.json["plan"]["ram_peak_mb"]
                for window, outcome in zip(watch.windows, outcomes, strict=True)
                if window.began <= event["at"] <= window.ended
            ]
            assert seen[-1] <= max(during), (event, during)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("level", ["l1", "l2"])
def test_a_level_in_switches(machine: Machine, level: str) -> None:
    prepare(machine, level)
    watch = machine.watch()
    done: list[Outcome] = []
    asleep = {SLEEPER} if level == "l1" else set()
    for mode, state in (("rest", "sleeping"), ("think", "running"), ("rest", "sleeping"), ("think", "running")):
        done.append(machine.change("switch", mode, watch=watch))
        machine.whole(mode)
        held_mb = machine.held()[SLEEPER]
        assert machine.states()[SLEEPER] == state
        if state == "sleeping":
            assert 0 < held_mb <= RESIDUE_MB
            assert set(ram_mb(machine)) == asleep
            assert all(abs(mb - WEIGHTS_MB) < 200 for mb in ram_mb(machine).values())
        else:
            assert AWAKE_MB - 2 <= held_mb <= AWAKE_MB
            assert ram_mb(machine) == {}
            machine.ask(SLEEPER)
    for outcome in done:  # what the plan says of a sleep's host RAM is an upper bound of it
        for step in outcome.json["plan"]["steps"]:
            if step["action"] == "sleep":
                ram = step["ram"] or {"before_mb": 0, "after_mb": 0}
                assert (ram["after_mb"] - ram["before_mb"] >= WEIGHTS_MB) is (level == "l1")
    done.append(machine.change("switch", "blank", watch=watch))
    machine.nothing_left()
    assert bool(check_memory(watch, done)) is (level == "l1")


@pytest.mark.slow
def test_without_host_ram_for_the_weights_it_is_stopped_instead(machine: Machine) -> None:
    prepare(machine, "l1")
    machine.change("switch", "think")
    machine.sim.configure(ram_mb=3000)
    done = machine.change("switch", "rest")
    assert any(SLEEPER in note and "RAM" in note for note in done.json["plan"]["notes"]), done.json["plan"]["notes"]
    assert machine.states() == {OTHER: "running"}
    machine.ok("service", "edit", SLEEPER, "--sleep-mode", "l2")
    machine.change("switch", "think")
    machine.change("switch", "rest")  # it takes next to none at level 2
    assert machine.states() == {SLEEPER: "sleeping", OTHER: "running"}
    assert ram_mb(machine) == {}


def test_what_somebody_else_put_to_sleep_deeper_is_woken_as_that_needs(machine: Machine) -> None:
    """By a plain wake-up it would answer with garbage, and say nothing."""
    prepare(machine, "l1")
    machine.change("switch", "think")
    base = f"http://127.0.0.1:{machine.ports[SLEEPER]}"
    fetch(f"{base}/sleep?level=2", {})
    assert machine.states() == {SLEEPER: "sleeping"}
    machine.change("service", "wake", SLEEPER)
    body = {"model": "Qwen/Qwen3-1.7B", "prompt": "x", "max_tokens": 8}
    assert "!!!" not in fetch(f"{base}/v1/completions", body)


@pytest.mark.slow
def test_one_that_is_only_paused_is_started_anew_and_not_woken(machine: Machine, until) -> None:
    """Woken, it would fall asleep all the same when its request ends, and die of the next one."""
    prepare(machine, "l1")
    machine.change("switch", "think")
    base = f"http://127.0.0.1:{machine.ports[SLEEPER]}"
    body = {"model": "Qwen/Qwen3-1.7B", "prompt": "x", "max_tokens": 10_000_000}
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(fetch, f"{base}/v1/completions", body)]
        until(lambda: re.search(r"num_requests_running\{.*\} 1\.0", fetch(f"{base}/metrics")), "the request to run")
        asked.append(pool.submit(fetch, f"{base}/sleep?level=1&mode=wait", {}))
        until(lambda: machine.states() == {SLEEPER: "sleeping"}, "the pause")
        named(machine.change("service", "wake", SLEEPER, code=6), "wake-timeout")
    assert machine.states() == {SLEEPER: "sleeping"}
    assert machine.held()[SLEEPER] <= RESIDUE_MB, "another one, which sleeps as it was seen to"
    machine.change("service", "wake", SLEEPER)
    machine.ask(SLEEPER)
    machine.agrees()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["l1", "l2"])
@pytest.mark.parametrize(
    ("kind", "code"), [("sleep-500", "sleep-failed"), ("sleep-hangs", "sleep-timeout"), ("sleep-frees-nothing", "")]
)
def test_a_fault_of_a_sleep_in_a_switch(machine: Machine, level: str, kind: str, code: str) -> None:
    prepare(machine, level)
    machine.change("switch", "think")
    before = machine.held()
    machine.fault(SLEEPER, kind)
    outcome = machine.change("switch", "rest", code=6 if code else 0)
    machine.clear()
    if code:
        named(outcome, code)
        assert machine.states() == {SLEEPER: "running"}
        assert machine.held() == before
    else:  # what frees nothing is stopped instead
        assert any(SLEEPER in note and f"at {level} freed nothing" in note for note in outcome.json["notes"])
        assert machine.states() == {OTHER: "running"}
    assert ram_mb(machine) == {}
    machine.agrees()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["l1", "l2"])
def test_a_wake_that_runs_out_of_memory_in_a_switch(machine: Machine, level: str) -> None:
    prepare(machine, level)
    machine.change("switch", "rest")
    before = (machine.held(), ram_mb(machine))
    machine.fault(SLEEPER, "wake-oom")
    error = named(machine.change("switch", "think", code=6), "out-of-memory")
    assert error["details"]["need_mb"] > 0
    machine.clear()
    assert machine.states() == {SLEEPER: "sleeping", OTHER: "running"}
    assert (machine.held(), ram_mb(machine)) == before
    machine.change("switch", "think")
    machine.ask(SLEEPER)


def named(outcome: Outcome, code: str) -> Any:
    assert outcome.error["code"] == code, outcome
    assert SLEEPER in outcome.error["message"]
    return outcome.error
