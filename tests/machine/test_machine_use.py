"""Idle sleep, turns and crash loops on the simulated machine: real processes, real HTTP, the real program."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim

TOKENS_PER_S = 25_000
"""What a stand-in writes at the tests' speed."""


def generate(machine: Machine, service: str, seconds: float = 0.0) -> str:
    """Ask a vLLM for a text that takes so long; the text."""
    base = f"http://127.0.0.1:{machine.ports[service]}"
    model = json.loads(fetch(f"{base}/v1/models"))["data"][0]["id"]
    asked = {"model": model, "prompt": "x", "max_tokens": max(1, int(seconds * TOKENS_PER_S))}
    answer: str = json.loads(fetch(f"{base}/v1/completions", asked))["choices"][0]["text"]
    return answer


def turns(machine: Machine) -> list[tuple[Any, ...]]:
    return machine.sql("SELECT service, began_at IS NOT NULL FROM turns ORDER BY number")


def mode_of_two(machine: Machine) -> None:
    """hyde and the reranker share one place."""
    machine.ok("mode", "create", "two", "--services", "hyde,reranker", "--sleep-on-idle", "hyde,reranker")
    machine.change("switch", "two")


def taker(machine: Machine, service: str, script: str, *options: str) -> subprocess.Popen[str]:
    return machine.begin("service", "turn", service, *options, "--", "sh", "-c", script)


@pytest.mark.slow
def test_the_exit_status_of_a_turn_is_the_commands_and_the_service_sleeps_again(machine: Machine) -> None:
    mode_of_two(machine)
    held = machine.held()
    done = machine.gpumod("service", "turn", "hyde", "--", "sh", "-c", 'echo "$GPUMOD_URL"; exit 5')
    assert done.code == 5, done
    url, _, document = done.stdout.partition("\n")
    assert url == f"http://127.0.0.1:{machine.ports['hyde']}"
    result = json.loads(document)
    assert (result["command_exit"], result["turn"]) == (5, None)
    assert [step["action"] for step in result["change"]["steps"][:1]] == ["wake"]
    assert [step["action"] for step in result["back"]["steps"][:1]] == ["sleep"]
    assert (machine.held(), turns(machine)) == (held, [])
    machine.whole("two")
    missing = machine.gpumod("service", "turn", "hyde", "--", "no-such-program")
    assert missing.code == 127
    assert turns(machine) == []


@pytest.mark.slow
def test_a_turn_that_others_took_for_lost_when_its_command_ended_was_none_the_less_one(machine: Machine) -> None:
    mode_of_two(machine)
    clears = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('DELETE FROM turns'); d.commit(); 1 / 0"
    command = (sys.executable, "-c", clears, str(machine.home / "gpumod.db"))
    done = machine.gpumod("service", "turn", "hyde", "--", *command)
    assert (done.code, done.json["command_exit"]) == (1, 1), done
    assert turns(machine) == []


@pytest.mark.slow
def test_turns_of_processes_wait_for_each_other_and_one_that_is_killed_gives_way(machine: Machine, until) -> None:
    mode_of_two(machine)
    gate = machine.folder / "gate"
    first = taker(machine, "hyde", f"while [ ! -e {gate} ]; do sleep 0.02; done")
    until(lambda: turns(machine) == [("hyde", 1)], "the first turn to begin")
    second = taker(machine, "reranker", "exec sleep 60")
    until(lambda: turns(machine) == [("hyde", 1), ("reranker", 0)], "the second to wait")
    late = machine.gpumod("service", "turn", "hyde", "--wait", "1s", "--", "true")
    assert (late.code, late.error["code"]) == (5, "no-turn")
    refused = machine.gpumod("service", "sleep", "hyde")
    assert (refused.code, refused.error["code"]) == (5, "leased")
    assert machine.states() == {"hyde": "running", "reranker": "sleeping"}
    gate.touch()
    assert machine.end(first).code == 0
    until(lambda: machine.states() == {"hyde": "sleeping", "reranker": "running"}, "the second turn")
    until(lambda: turns(machine) == [("reranker", 1)], "the first to be over")
    (pid,) = machine.sql("SELECT pid FROM turns")[0]
    second.kill()
    second.wait()  # its command, which goes on, keeps the pipe open
    assert machine.states()["reranker"] == "running"  # the turn is the command's, which goes on
    assert turns(machine) == [("reranker", 1)]
    os.kill(pid, signal.SIGKILL)
    machine.whole("two")
    third = machine.gpumod("service", "turn", "hyde", "--", "true")
    assert third.code == 0, third
    assert machine.states() == {"hyde": "sleeping", "reranker": "sleeping"}
    assert turns(machine) == []
    machine.whole("two")


@pytest.mark.slow
def test_a_command_goes_on_with_the_turn_inside_which_it_was_started(machine: Machine, until) -> None:
    mode_of_two(machine)
    gate = machine.folder / "gate"
    inner = shlex.join(machine.argv("service", "turn", "hyde", "--wait", "20s", "--", "true"))
    first = taker(machine, "hyde", f"while [ ! -e {gate} ]; do sleep 0.02; done; {inner}")
    until(lambda: turns(machine) == [("hyde", 1)], "the first turn to begin")
    other = taker(machine, "reranker", "true")
    until(lambda: turns(machine) == [("hyde", 1), ("reranker", 0)], "the other one to wait")
    gate.touch()
    assert machine.end(first).code == 0
    assert machine.end(other).code == 0
    assert machine.states() == {"hyde": "sleeping", "reranker": "sleeping"}
    assert turns(machine) == []


@pytest.mark.slow
def test_watch_puts_back_what_a_killed_turn_has_left(machine: Machine, until) -> None:
    mode_of_two(machine)
    process = taker(machine, "hyde", "exec sleep 60")
    until(lambda: machine.states().get("hyde") == "running", "it to be awake")
    (pid,) = machine.sql("SELECT pid FROM turns")[0]
    refused = machine.gpumod("service", "stop", "hyde", "--cascade")
    assert (refused.code, refused.error["code"]) == (5, "leased")
    process.kill()
    os.kill(pid, signal.SIGKILL)
    process.wait()
    assert "is awake for a turn that is over" in machine.ok("recover").json["notes"][0]
    look = machine.ok("watch", "--once").json
    assert [(done["what"], done["subject"]) for done in look["mended"]] == [("sleep", "hyde")]
    assert (machine.states()["hyde"], turns(machine)) == ("sleeping", [])
    machine.whole("two")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_or_the_wait_for_a_turn(machine: Machine, until, number: signal.Signals) -> None:
    mode_of_two(machine)
    holds = taker(machine, "hyde", "exec sleep 60")
    until(lambda: turns(machine) == [("hyde", 1)], "the first turn to begin")
    until(lambda: machine.states().get("hyde") == "running", "it to be awake")
    waits = taker(machine, "reranker", "exec sleep 60")
    until(lambda: len(turns(machine)) == 2, "the second to wait")
    waits.send_signal(number)
    assert machine.end(waits).code != 0
    until(lambda: machine.sql("SELECT 1 FROM runs WHERE status = 'running'") == [], "the change to end")
    time.sleep(0.3)
    holds.send_signal(number)
    assert machine.end(holds).code == 128 + number
    assert machine.gpumod("service", "turn", "reranker", "--wait", "5s", "--", "true").code == 0
    assert turns(machine) == []
    machine.whole("two")


@pytest.mark.slow
def test_under_watch_an_idle_service_sleeps_but_not_during_a_long_request(machine: Machine, until) -> None:
    machine.ok("settings", "set", "watch_interval_s", "1")
    machine.ok("settings", "set", "health_interval_s", "1")
    machine.ok("settings", "set", "idle_timeout_s", "2")
    mode_of_two(machine)
    machine.change("service", "wake", "hyde")
    process = machine.begin("watch")
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(generate(machine, "hyde", 6.0)))
    asking.start()
    while asking.is_alive():
        assert machine.states()["hyde"] == "running"  # asked all the while, as everything of ours asks
        asking.join(0.3)
    ended = time.monotonic()
    assert answers[0]
    until(lambda: machine.states()["hyde"] == "sleeping", "it to fall asleep")
    assert time.monotonic() - ended > 1.0
    process.send_signal(signal.SIGTERM)
    outcome = machine.end(process)
    assert outcome.code == 0, outcome
    looks = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [(done["what"], done["subject"]) for look in looks for done in look["mended"]] == [("sleep", "hyde")]
    machine.whole("two")


@pytest.mark.slow
def test_a_crash_loop_ends_with_its_budget_and_the_reason(machine: Machine, until) -> None:
    for key, value in {"watch_interval_s": 1, "health_interval_s": 1, "restart_budget": 1}.items():
        machine.ok("settings", "set", key, str(value))
    machine.ok("mode", "create", "talk", "--services", "asr")
    machine.change("switch", "talk")
    process = machine.begin("watch")
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'health' AND subject = 'asr'"), "it to be seen")
    machine.fault("asr", "die-after", 1.5)
    (pid,) = [row["pid"] for row in machine.status()["services"] if row["id"] == "asr"]
    os.kill(pid, signal.SIGKILL)
    given_up = "SELECT data FROM events WHERE kind = 'restart-given-up' AND subject = 'asr'"
    until(lambda: machine.sql(given_up), "it to be given up")
    process.send_signal(signal.SIGTERM)
    outcome = machine.end(process)
    looks = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert sum(done["what"] == "restart" for look in looks for done in look["mended"]) == 1
    assert any("asr is left alone, it was restarted 1 times" in note for look in looks for note in look["notes"])
    changes = [(t["before"], t["now"]) for look in looks for t in look["transitions"] if t["service"] == "asr"]
    assert ("healthy", "unhealthy") in changes
    machine.clear()


@pytest.mark.slow
def test_idle_time_is_kept_between_calls_of_a_timer(machine: Machine) -> None:
    machine.change("service", "start", "hyde")
    machine.ok("service", "edit", "hyde", "--idle-timeout", "1")
    generate(machine, "hyde")
    first = machine.ok("service", "sleep-idle").json
    assert [(row["service"], row["why"]) for row in first["services"]] == [("hyde", "in 1 s")]
    time.sleep(1.1)
    second = machine.ok("service", "sleep-idle").json
    assert second["change"]["status"] == "done"
    assert machine.states() == {"hyde": "sleeping"}
