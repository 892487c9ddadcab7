"""Every fault at every step where it can strike: the exit status, who is to blame, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = pytest.mark.sim

BEFORE = {"asr": "running", "embedding": "running", "hyde": "sleeping", "llama-router": "running", "chat": "sleeping"}
APP = "command=uvicorn app:app --host {host} --port {port}"
NAPS = ("--sleep-mode", "http", "--set", "sleep_path=/sleep", "--set", "wake_path=/wake")
START_FAULTS = [
    ("never-ready", None, ("start-timeout", "load-failed", "load-timeout")),
    ("hang", None, ("start-timeout", "load-failed", "load-timeout")),
    ("oom-at-start", None, ("out-of-memory",)),
    ("die-after", 0.0, ("died-while-starting", "crashed", "load-failed", "verify-failed")),
    ("cpu-fallback", None, ("cpu-fallback",)),
]


def prepare(machine: Machine) -> dict[str, int]:
    """Mode `work`, with services awake and asleep; what each holds."""
    machine.ok("mode", "create", "work", "--services", "asr,embedding,hyde,chat", "--asleep", "hyde,chat")
    machine.change("switch", "work")
    assert machine.states() == BEFORE
    return machine.held()


def failed(machine: Machine, outcome: Outcome, held: dict[str, int], culprit: str) -> Any:
    """It was rolled back: everything is as before, and the culprit is named. Returns the error."""
    assert outcome.code == 6, outcome
    assert outcome.json["status"] == "rolled-back"
    machine.clear()
    assert machine.states() == BEFORE
    assert machine.held() == held
    machine.whole("work")
    assert culprit in outcome.error["message"] + outcome.error["why"], outcome.error
    return outcome.error


def steps(outcome: Outcome, phase: str) -> set[tuple[str, str]]:
    """What was done in a phase, by action and service."""
    done = [step for step in outcome.json["steps"] if step["phase"] == phase and step["status"] == "done"]
    return {(step["action"], step["service"]) for step in done}


@pytest.mark.slow
@pytest.mark.parametrize("service", ["reranker", "tts", "coder"])
def test_a_start_that_fails_goes_back_and_wakes_what_was_put_to_sleep(machine: Machine, service: str) -> None:
    member = ("--driver", "llamacpp", "--host-service", "llama-router", "--vram-mb", "5000", "--sleep-mode", "router")
    machine.ok("service", "add", "--id", "coder", *member, "--model-path", "/models/coder.gguf")
    machine.ok("mode", "create", "fails", "--services", f"embedding,{service}", "--asleep", "embedding")
    held = prepare(machine)
    for kind, value, codes in START_FAULTS:
        if kind == "die-after":
            machine.fault(service, "slow-start", 30.0)  # it dies while it starts
        machine.fault(service, kind, value)
        bounded = ("--timeout", "0.7") if kind in ("never-ready", "hang") else ()
        outcome = machine.change("switch", "fails", *bounded, code=6)
        error = failed(machine, outcome, held, service)
        assert error["code"] in codes, (kind, error)
        if ("sleep", "embedding") in steps(outcome, "apply"):
            assert ("wake", "embedding") in steps(outcome, "rollback")
    machine.ask("embedding")
    machine.fault(service, "slow-start", 20.0)
    machine.change("switch", "fails")
    assert machine.states()[service] == "running"
    machine.ask(service)


@pytest.mark.slow
def test_a_service_that_does_not_fall_asleep(machine: Machine) -> None:
    machine.ok("service", "edit", "embedding", "--set", "sleep_timeout_s=0.5")
    machine.ok("service", "edit", "asr", *NAPS, "--set", "sleep_timeout_s=0.5")
    machine.ok("mode", "create", "naps", "--services", "asr,embedding,hyde,chat,tts", "--asleep", "asr,embedding,chat")
    held = prepare(machine)
    for service in ("embedding", "asr"):
        for kind, code in (("sleep-500", "sleep-failed"), ("sleep-hangs", "sleep-timeout")):
            machine.fault(service, kind)
            assert failed(machine, machine.change("switch", "naps", code=6), held, service)["code"] == code
    machine.fault("embedding", "sleep-frees-nothing")
    machine.fault("asr", "sleep-frees-nothing")
    done = machine.change("switch", "naps")
    assert {note.partition(":")[0] for note in done.json["notes"]} == {"embedding", "asr"}
    assert all("freed nothing" in note for note in done.json["notes"])
    assert machine.states() == {"hyde": "running", "tts": "running", "chat": "sleeping", "llama-router": "running"}


@pytest.mark.slow
def test_a_member_that_is_not_unloaded(machine: Machine) -> None:
    machine.ok("mode", "create", "rest", "--services", "asr,embedding,hyde,chat", "--asleep", "hyde")
    held = prepare(machine)
    machine.change("switch", "rest")
    machine.fault("chat", "sleep-500")
    outcome = machine.change("switch", "work", code=6)
    assert outcome.error["code"] == "unload-failed"
    assert "chat" in outcome.error["message"]
    machine.clear()
    machine.whole("rest")
    machine.ask("chat")
    machine.change("switch", "work")
    assert machine.held() == held


@pytest.mark.slow
def test_a_service_that_does_not_wake(machine: Machine) -> None:
    machine.ok("service", "edit", "asr", *NAPS)
    machine.ok("mode", "create", "up", "--services", "embedding,hyde", "--asleep", "embedding")
    machine.ok("mode", "create", "talk", "--services", "embedding,chat", "--asleep", "embedding")
    held = prepare(machine)
    machine.fault("hyde", "wake-oom")
    outcome = machine.change("switch", "up", code=6)
    assert ("stop", "asr") in steps(outcome, "apply") | steps(outcome, "rollback")
    failed(machine, outcome, held, "hyde")
    machine.fault("chat", "wake-oom")
    failed(machine, machine.change("switch", "talk", code=6), held, "chat")
    machine.change("service", "sleep", "asr")
    machine.fault("asr", "wake-oom")
    outcome = machine.change("service", "wake", "asr", code=6)
    assert "asr" in outcome.error["message"]
    machine.clear()
    machine.change("service", "wake", "asr")
    machine.ask("asr")


@pytest.mark.slow
def test_a_stop_is_whole_whatever_the_service_does(machine: Machine) -> None:
    """SIGTERM is ignored, a worker sits in a session of its own: nothing of it is left."""
    machine.ok("service", "edit", "asr", "--set", "stop_timeout_s=0.3")
    for kind in ("setsid-worker", "ignore-sigterm"):
        machine.fault("asr", kind)
        machine.fault("embedding", "setsid-worker")
        machine.change("service", "start", "asr")
        machine.change("service", "start", "embedding")
        assert len([row for row in machine.allocations() if row["service"] == "embedding"]) == 2
        machine.change("switch", "blank")
        machine.nothing_left()
        machine.clear()


@pytest.mark.slow
def test_memory_that_nobody_holds_any_more_is_named(machine: Machine) -> None:
    machine.ok("mode", "create", "big", "--services", "glm-code,embedding-code")
    prepare(machine)
    machine.fault("asr", "leak", 5000.0)
    outcome = machine.change("switch", "big", code=6)
    assert outcome.error["code"] == "memory-not-released"
    assert "unattributed 5000 MiB" in outcome.error["why"]
    assert machine.states() == BEFORE
    assert machine.status()["foreign"] == [{"pid": None, "name": "unattributed", "vram_mb": 5000, "gpu": 0}]
    machine.clear()
    machine.change("switch", "big")
    machine.whole("big")
    machine.fault("embedding-code", "leak", 300.0)
    done = machine.change("switch", "blank")
    assert any("unattributed 300 MiB" in note for note in done.json["notes"])
    machine.clear()
    machine.nothing_left()


@pytest.mark.slow
def test_what_was_started_by_hand_and_a_mode_that_was_edited_survive_a_rollback(machine: Machine) -> None:
    machine.ok("mode", "create", "work", "--services", "embedding")
    machine.change("switch", "work")
    machine.change("service", "start", "reranker-base")
    machine.ok("mode", "edit", "work", "--add", "hyde")
    machine.ok("mode", "edit", "speak", "--remove", "chat", "--description", "mine")
    edited = [machine.ok("mode", "show", mode).json for mode in ("work", "speak")]
    held = machine.held()
    machine.fault("tts", "oom-at-start")
    outcome = machine.change("switch", "speak", code=6)
    assert outcome.error["code"] == "out-of-memory"
    machine.clear()
    assert machine.states() == {"embedding": "running", "reranker-base": "running"}
    assert machine.held() == held
    machine.ask("reranker-base")
    assert [machine.ok("mode", "show", mode).json for mode in ("work", "speak")] == edited
    assert machine.status()["mode"] == "work"
    machine.change("switch", "speak")
    machine.whole("speak")
    assert "chat" not in machine.states()


def test_a_reason_that_a_vllm_buries_under_its_tracebacks_is_found(machine: Machine) -> None:
    machine.fault("reranker", "oom-at-start")
    error = machine.change("service", "start", "reranker", code=6).error
    assert error["code"] == "out-of-memory"
    told = error["details"]["log"]
    assert len(told) == 20
    assert "Engine core initialization failed" in told[-1]
    assert not any("out of memory" in line for line in told)


@pytest.mark.slow
def test_the_last_start_of_a_switch_fails(machine: Machine) -> None:
    """What it had put to sleep is awake again; what was started by hand and a mode that was edited are as they were."""
    machine.ok("service", "edit", "asr", "--depends-on", "tts")
    machine.ok("mode", "create", "work", "--services", "embedding")
    machine.ok("mode", "create", "talk", "--services", "embedding,tts,asr", "--asleep", "embedding")
    machine.change("switch", "work")
    machine.change("service", "start", "reranker-base")
    machine.ok("mode", "edit", "work", "--add", "hyde", "--description", "mine")
    edited, held, pids = machine.ok("mode", "show", "work").json, machine.held(), pids_of(machine)
    machine.fault("tts", "slow-start", 30.0)
    machine.fault("asr", "oom-at-start")
    outcome = machine.change("switch", "talk", code=6)
    assert (outcome.error["code"], outcome.error["details"]["service"]) == ("out-of-memory", "asr")
    assert {("sleep", "embedding"), ("start", "tts"), ("stop", "reranker-base")} <= steps(outcome, "apply")
    assert {("wake", "embedding"), ("stop", "tts"), ("start", "reranker-base")} <= steps(outcome, "rollback")
    machine.clear()
    assert machine.states() == {"embedding": "running", "reranker-base": "running"}
    assert machine.held() == held
    assert pids_of(machine)["embedding"] == pids["embedding"]
    assert machine.ok("mode", "show", "work").json == edited
    assert machine.status()["mode"] == "work"
    machine.agrees()
    machine.ask("embedding")


def pids_of(machine: Machine) -> dict[str, int]:
    return {row["id"]: row["pid"] for row in machine.status()["services"]}


@pytest.mark.slow
def test_timeout_no_rollback_and_force(machine: Machine) -> None:
    machine.ok("mode", "create", "one", "--services", "embedding,tts")
    machine.fault("tts", "never-ready")
    outcome = machine.change("switch", "one", "--timeout", "1", "--no-rollback", code=7)
    assert outcome.json["status"] == "half-way"
    assert outcome.error["code"] == "start-timeout"
    assert "1 s" in outcome.error["message"]
    assert machine.states().get("embedding") == "running"
    assert machine.quick("switch", "code").code == 7
    machine.clear()
    machine.ok("recover", "--rollback")
    machine.nothing_left()

    machine.ok("service", "edit", "tts", "--vram-mb", "30000")
    refused = machine.change("switch", "one", code=3)
    assert refused.json["status"] == "refused"
    machine.nothing_left()
    forced = machine.change("switch", "one", "--force", code=6)
    assert forced.error["code"] == "out-of-memory"
    assert "tts" in forced.error["message"]
    machine.nothing_left()
