"""Signals in the middle of a switch, and terminals that go away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim

WRAPPER = """
import pathlib, subprocess, sys, time
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
pathlib.Path(sys.argv[1]).write_text(f"exit {code}")
time.sleep(300)
"""


def begin_slowly(machine: Machine, until, **options: object) -> subprocess.Popen[str]:
    """A switch from `embedding` to code that has put things in motion and is starting glm-code."""
    machine.ok("mode", "create", "work", "--services", "embedding,hyde", "--asleep", "hyde")
    machine.ok("mode", "create", "next", "--services", "embedding,tts", "--asleep", "embedding")
    machine.change("switch", "work")
    machine.fault("tts", "slow-start", 150.0)
    process = machine.begin("switch", "next", **options)
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'spawned' AND subject = 'tts'"), "tts to be spawned")
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'slept' AND subject = 'embedding'"), "it to sleep")
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_goes_back_and_the_second_leaves_it(machine: Machine, until, number: signal.Signals) -> None:
    process = begin_slowly(machine, until)
    process.send_signal(number)
    outcome = machine.end(process)
    assert outcome.code == 6, outcome
    assert outcome.json["status"] == "rolled-back"
    assert outcome.error["code"] == "interrupted"
    machine.whole("work")
    assert machine.states() == {"embedding": "running", "hyde": "sleeping"}
    machine.ask("embedding")

    machine.sim.configure(lag_s=1.0)  # the way back waits for memory: time for the second signal
    process = machine.begin("switch", "next")
    until(lambda: "tts" in str(machine.sql("SELECT service FROM handles")), "tts to start")
    process.send_signal(number)
    time.sleep(0.1)  # sooner it would be the same one, told twice
    process.send_signal(number)
    outcome = machine.end(process)
    assert outcome.code == 7, outcome
    assert outcome.json["status"] == "half-way"
    machine.sim.configure(lag_s=0.05)
    assert machine.status()["open_run"] == outcome.json["run_id"]
    machine.clear()
    machine.ok("recover", "--resume")
    machine.whole("next")


@pytest.mark.slow
def test_keys_that_come_when_the_way_back_is_done_take_no_result_away(machine: Machine, until) -> None:
    """The second Ctrl-C comes a moment too late, again and again until the program has ended."""
    machine.fault("glm-code", "slow-start", 30.0)
    argv = machine.argv("switch", "code")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        until(lambda: "glm-code" in machine.held(), "glm-code to start")
        process.send_signal(signal.SIGINT)
        until(lambda: machine.sql("SELECT status FROM runs") == [("rolled-back",)], "the way back to be done")
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert process.returncode == 6
        assert json.loads(process.stdout.read())["status"] == "rolled-back"
    assert machine.status()["open_run"] is None


@pytest.mark.slow
def test_a_hang_up_is_survived_by_gpumod_and_by_the_services(machine: Machine, until) -> None:
    told = machine.folder / "exit"
    argv = [sys.executable, "-c", WRAPPER, str(told), *machine.argv("switch", "code")]
    machine.fault("glm-code", "slow-start", 30.0)
    with subprocess.Popen(argv, start_new_session=True) as terminal:
        until(lambda: "glm-code" in machine.held(), "glm-code to start")
        for pid in group(terminal.pid) - {terminal.pid}:
            os.kill(pid, signal.SIGHUP)
        assert until(lambda: told.exists() and told.read_text(), "the switch to end") == "exit 0"
        os.killpg(terminal.pid, signal.SIGHUP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(terminal.pid, signal.SIGKILL)
    machine.whole("code")
    for row in machine.status()["services"]:
        if row["pid"]:
            assert os.getsid(row["pid"]) not in (terminal.pid, os.getsid(0))
            machine.ask(row["id"])


@pytest.mark.slow
def test_a_reader_of_the_progress_may_leave(machine: Machine) -> None:
    argv = machine.argv("switch", "rag")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline()
        process.stderr.close()
        assert process.wait(60) == 0
    assert machine.status()["open_run"] is None
    machine.whole("rag")


def group(leader: int) -> set[int]:
    """The processes of a process group."""
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == leader:
                found.add(pid)
    return found
