"""`gpumod free`: room on the card while a command runs, and everything back, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.terminals import CTRL_C, Terminal

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim

CARD_MB, RESERVE_MB = 24_564, 512
CODE = {"embedding-code": "running", "glm-code": "running"}


def leases(machine: Machine) -> list[Any]:
    rows: list[Any] = machine.status()["leases"]
    return rows


def begin(machine: Machine, until, *argv: str, options: tuple[str, ...] = (), **popen: Any) -> subprocess.Popen[str]:
    """`gpumod free 12000 -- ARGV` in mode code, whose command runs."""
    machine.change("switch", "code")
    started = machine.folder / "started"
    script = f"echo $$ > {started}; exec {' '.join(argv)}"
    process = machine.begin("free", "12000", *options, "--", "sh", "-c", script, **popen)
    until(lambda: started.exists() and started.read_text().strip(), "the command to run")
    return process


def gate(machine: Machine, name: str = "gate") -> tuple[str, ...]:
    """A command that runs until `open_gate`."""
    return "sh", "-c", f"'while [ ! -e {machine.folder}/{name} ]; do sleep 0.02; done'"


def open_gate(machine: Machine, name: str = "gate") -> None:
    (machine.folder / name).touch()


def killed(machine: Machine, process: subprocess.Popen[str]) -> int:
    """kill -9 of gpumod; the pid of its command, which goes on."""
    process.kill()
    process.wait()
    return int((machine.folder / "started").read_text())


def room_is_there(machine: Machine) -> None:
    assert sum(row["mb"] for row in machine.allocations()) <= CARD_MB - RESERVE_MB - 12_000
    (lease,) = leases(machine)
    assert (lease["gpu"], lease["vram_mb"]) == (0, 12_000)


def all_is_back(machine: Machine) -> None:
    assert leases(machine) == []
    assert machine.status()["put_back"] == ""
    assert machine.sql("SELECT id FROM leases") == []
    machine.whole("code")
    assert machine.states() == CODE


@pytest.mark.slow
def test_there_is_room_while_the_command_runs_and_the_mode_is_whole_afterwards(machine: Machine, until) -> None:
    process = begin(machine, until, *gate(machine))
    room_is_there(machine)
    command = int((machine.folder / "started").read_text())
    holder = f"(pid {command})"
    assert leases(machine)[0]["pid"] == command
    assert any(holder in row["in_words"] for row in machine.ok("ps").json["leases"])
    assert machine.status()["put_back"] == ""
    fits = machine.ok("simulate", "--services", "embedding-code,tts").json
    assert any(holder in note for note in fits["notes"])
    for refused in (
        machine.quick("simulate", "--mode", "code"),
        machine.quick("switch", "code"),
        machine.quick("service", "start", "glm-code"),
        machine.quick("free", "13000", "--", "true"),
    ):
        assert refused.code == 3, refused
        assert holder in refused.stdout
    busy = machine.quick("free", "--back")
    assert (busy.code, busy.error["code"]) == (5, "lease-in-use")
    assert busy.error["why"] == f"it lasts as long as its process (pid {command})"
    machine.change("service", "stop", "embedding-code")  # the lock is free while the command runs
    machine.change("service", "start", "embedding-code")
    open_gate(machine)
    outcome = machine.end(process)
    assert (outcome.code, outcome.json["command_exit"]) == (0, 0), outcome
    assert outcome.json["back"]["status"] == "done"
    all_is_back(machine)
    kinds = [kind for (kind,) in machine.sql("SELECT kind FROM events WHERE kind LIKE 'lease%' ORDER BY seq")]
    assert kinds == ["leased", "lease-settled"]


@pytest.mark.slow
def test_what_the_command_takes_is_not_counted_twice(machine: Machine, until) -> None:
    game = f"{machine.sim.folder}/libexec/game"
    process = begin(machine, until, game, "job", "0", "9000")
    until(lambda: machine.held().get("job") == 9000, "the job to take memory")
    until(lambda: leases(machine)[0]["used_mb"] == 9000, "it to be seen")
    budget = machine.quick("simulate", "--services", "tts").json["gpus"][0]["budget_mb"]
    assert budget == CARD_MB - RESERVE_MB - 12_000
    process.send_signal(signal.SIGTERM)
    outcome = machine.end(process)
    assert outcome.code == 0, outcome
    all_is_back(machine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code"), [(("sh", "-c", "'exit 5'"), 5), (("sh", "-c", "'kill -9 $$'"), 128 + signal.SIGKILL)]
)
def test_the_exit_status_is_the_commands(machine: Machine, until, argv: tuple[str, ...], code: int) -> None:
    outcome = machine.end(begin(machine, until, *argv))
    assert outcome.code == code, outcome
    all_is_back(machine)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_to_the_command_then_everything_is_put_back(machine: Machine, until, number: signal.Signals) -> None:
    process = begin(machine, until, "sleep", "60")
    process.send_signal(number)
    outcome = machine.end(process)
    assert outcome.code == 128 + number, outcome
    all_is_back(machine)


COUNTER = """
import signal, sys, time
hits = []
signal.signal(signal.SIGINT, lambda *_: hits.append(1))
print("listening", flush=True)
while not hits:
    time.sleep(0.01)
time.sleep(0.3)
print("interrupted", len(hits), sys.stdin.isatty(), flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_reaches_the_command_once(machine: Machine) -> None:
    machine.change("switch", "code")
    argv = [arg for arg in machine.argv("free", "12000", "--", sys.executable, "-c", COUNTER) if arg != "--json"]
    terminal = Terminal(argv)
    machine.started.append(terminal.process)
    terminal.wait_for("listening")
    terminal.type(CTRL_C)
    assert terminal.end() == 0, terminal.told
    assert "interrupted 1 True" in terminal.told
    all_is_back(machine)


@pytest.mark.slow
def test_after_a_kill_of_gpumod_the_lease_lasts_as_long_as_the_command(machine: Machine, until) -> None:
    command = killed(machine, begin(machine, until, "sleep", "60"))
    room_is_there(machine)
    assert leases(machine)[0]["pid"] == command
    assert machine.status()["put_back"] == ""
    assert machine.quick("switch", "code").code == 3
    assert machine.quick("free", "--back").error["code"] == "lease-in-use"
    os.kill(command, signal.SIGKILL)
    until(lambda: leases(machine) == [], "the lease to end")
    for told in (machine.status()["put_back"], *machine.ok("recover").json["notes"]):
        assert "glm-code" in told
        assert "gpumod free --back" in told
    assert any(check["name"] == "leases" for check in machine.quick("doctor").json["checks"])
    dry = machine.ok("free", "--back", "--dry-run").json["back"]
    assert (dry["plan"]["steps"][0]["action"], dry["plan"]["steps"][0]["service"]) == ("start", "glm-code")
    machine.ok("free", "--back")
    all_is_back(machine)
    assert machine.ok("free", "--back").json["notes"] == ["nothing is to be put back"]


@pytest.mark.slow
def test_after_a_kill_of_gpumod_a_switch_settles_it_too(machine: Machine, until) -> None:
    process = begin(machine, until, "sleep", "60")
    os.kill(killed(machine, process), signal.SIGKILL)
    machine.change("switch", "code")
    machine.ok("free", "--back")
    all_is_back(machine)


@pytest.mark.slow
def test_a_kill_while_room_is_made_is_closed_by_recover(machine: Machine, until) -> None:
    machine.change("switch", "code")
    machine.sim.configure(lag_s=1.0)
    process = machine.begin("free", "12000", "--", "sleep", "60")
    until(lambda: machine.sql("SELECT 1 FROM run_steps WHERE status = 'running'"), "a step to begin")
    until(lambda: machine.sql("SELECT 1 FROM runs WHERE command LIKE 'free%'"), "the run to begin")
    (lease,) = leases(machine)
    assert lease["pid"] != process.pid
    process.kill()
    machine.end(process)
    until(lambda: leases(machine) == [], "the command, which never ran, to be gone")
    machine.sim.configure(lag_s=0.05)
    assert machine.status()["open_run"] is not None
    machine.ok("recover", "--rollback")
    machine.whole("code")
    machine.ok("free", "--back")
    all_is_back(machine)


@pytest.mark.slow
def test_whoever_switches_meanwhile_decides_what_runs(machine: Machine, until) -> None:
    process = begin(machine, until, *gate(machine))
    machine.ok("mode", "create", "talk", "--services", "tts")
    switched = machine.gpumod("switch", "talk")
    assert switched.code == 0, switched
    (note,) = switched.json["notes"]
    assert "leased to" in note
    assert note.endswith("what made room for it (glm-code) is not put back once mode talk is reached")
    assert note in switched.stderr
    open_gate(machine)
    outcome = machine.end(process)
    assert outcome.code == 0, outcome
    assert outcome.json["notes"] == ["the machine was switched to a mode since: that is left as it is"]
    machine.whole("talk")
    assert leases(machine) == []


@pytest.mark.slow
def test_what_took_the_room_meanwhile_is_named(machine: Machine, until) -> None:
    process = begin(machine, until, *gate(machine))
    machine.change("service", "start", "tts")
    open_gate(machine)
    outcome = machine.end(process)
    assert outcome.code == 3, outcome
    assert outcome.json["back"]["error"]["code"] == "not-put-back"
    assert "tts" in outcome.json["back"]["error"]["message"]
    machine.change("service", "stop", "tts")
    machine.ok("free", "--back")
    all_is_back(machine)


@pytest.mark.slow
def test_two_leases_end_in_any_order(machine: Machine, until) -> None:
    first = begin(machine, until, *gate(machine, "one"))
    second = machine.begin("free", "5000", "--", "sh", "-c", gate(machine, "two")[-1].strip("'"))
    until(lambda: len(leases(machine)) == 2, "the second lease")
    open_gate(machine, "one")
    done = machine.end(first)
    assert done.code == 0, done
    assert "nothing is put back before this is over" in done.json["notes"][-1]
    assert machine.states() == {"embedding-code": "running"}
    open_gate(machine, "two")
    done = machine.end(second)
    assert done.code == 0, done
    all_is_back(machine)


@pytest.mark.slow
def test_room_for_a_while(machine: Machine) -> None:
    machine.change("switch", "code")
    began = time.monotonic()
    assert machine.gpumod("free", "12000", "--for", "1s").code == 0
    assert time.monotonic() - began > 1
    all_is_back(machine)
    ended = machine.gpumod("free", "12000", "--for", "1s", "--", "sleep", "60")
    assert (ended.code, ended.json["command_exit"]) == (124, 124), ended
    all_is_back(machine)


def test_room_until_it_is_given_back(machine: Machine) -> None:
    machine.change("switch", "code")
    made = machine.ok("free", "12000").json
    assert made["next"] == "gpumod free --back"
    room_is_there(machine)
    assert machine.quick("switch", "code").code == 3
    machine.ok("sim", "foreign", "8000")
    assert leases(machine)[0]["used_mb"] == 8000
    machine.ok("sim", "foreign", "--stop")
    machine.change("free", "--back")
    all_is_back(machine)


@pytest.mark.slow
def test_a_lease_gives_way_to_force(machine: Machine) -> None:
    machine.change("switch", "code")
    machine.ok("free", "12000")
    assert machine.quick("switch", "code", "--force").code == 0
    machine.ok("free", "--back")
    all_is_back(machine)


@pytest.mark.slow
def test_sleep_comes_first_and_what_slept_wakes(machine: Machine) -> None:
    machine.ok("mode", "create", "work", "--services", "embedding,reranker,tts")
    machine.change("switch", "work")
    made = machine.gpumod("free", "12500", "--", "true").json
    assert [(s["action"], s["service"]) for s in made["change"]["steps"]][:-1] == [("sleep", "reranker")]
    assert [(s["action"], s["service"]) for s in made["back"]["steps"]][:-1] == [("wake", "reranker")]
    machine.whole("work")


@pytest.mark.slow
def test_what_cannot_be_is_refused_and_nothing_changes(machine: Machine) -> None:
    machine.ok("service", "edit", "glm-code", "--pinned")
    machine.change("switch", "code")
    refused = machine.quick("free", "12000", "--", "true")
    assert (refused.code, refused.error["code"]) == (3, "no-room"), refused
    assert "glm-code 19100 (pinned)" in refused.error["why"]
    assert refused.error["details"]["exceeds_by_mb"] == 12_000 - (CARD_MB - RESERVE_MB - 19_100)
    absent = machine.gpumod("free", "10", "--", "no-such-program")
    assert (absent.code, absent.error["code"]) == (127, "no-such-command")
    assert machine.gpumod("free", "10", "--", str(machine.folder)).code == 126
    unknown = machine.quick("free", "10", "--gpu", "7")
    assert (unknown.code, unknown.error["code"]) == (4, "unknown-gpu")
    assert leases(machine) == []
    assert machine.states() == CODE
    machine.ok("service", "edit", "glm-code", "--not-pinned")


@pytest.mark.slow
def test_a_leak_is_noticed_before_the_command_runs(machine: Machine) -> None:
    machine.change("switch", "code")
    machine.fault("glm-code", "leak", 10_000)
    outcome = machine.gpumod("free", "14000", "--", "touch", str(machine.folder / "ran"))
    assert outcome.code == 6, outcome
    assert outcome.json["change"]["error"]["code"] == "room-not-there"
    assert not (machine.folder / "ran").exists()
    assert leases(machine) == []


@pytest.mark.slow
def test_the_command_has_its_own_streams_and_the_gpu(machine: Machine, driver: Any) -> None:
    argv = machine.argv("free", "100", "--", "sh", "-c", "cat; echo $CUDA_VISIBLE_DEVICES")
    done = subprocess.run([arg for arg in argv if arg != "--json"], input=b"in\n", capture_output=True)
    sees = b"GPU-sim-0" if driver else b"0"
    assert (done.returncode, done.stdout) == (0, b"in\n" + sees + b"\n"), done
    assert b"leased to" in done.stderr
    both = subprocess.run(machine.argv("free", "100", "--", "true"), capture_output=True, text=True)
    assert json.loads(both.stdout)["command_exit"] == 0
