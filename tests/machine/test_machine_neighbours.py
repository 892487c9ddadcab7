"""Who else is on the machine: foreign processes, strangers on ports, other changers from another home."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, MakeMachine

pytestmark = pytest.mark.sim

BUDGET_MB = 24564 - 512
LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('up', flush=True)\n"
SERVE = "while True: s.accept()[0].sendall(b'here')"


@pytest.mark.slow
def test_memory_that_is_taken_between_plan_and_start_is_named(machine: Machine, until) -> None:
    machine.ok("service", "edit", "asr", "--vram-mb", "4000")
    machine.ok("mode", "create", "two", "--services", "asr,glm-code", "--start-order", "glm-code=1")
    machine.fault("asr", "slow-start", 100.0)
    process = machine.begin("switch", "two")
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'spawned'"), "asr to be spawned")
    pid = machine.ok("sim", "foreign", "8000", "--name", "shooter").json["pid"]
    outcome = machine.end(process)
    assert outcome.code == 6, outcome
    assert outcome.error["code"] == "memory-taken"
    assert "glm-code" in outcome.error["message"]
    assert f"shooter (pid {pid}) with 8000 MiB" in outcome.error["why"]
    assert machine.states() == {}
    assert machine.status()["foreign"] == [{"pid": pid, "name": "shooter", "vram_mb": 8000, "gpu": 0}]
    refused = machine.change("switch", "two", code=3)
    assert refused.json["plan"]["gpus"][0]["foreign_mb"] == 8000
    machine.ok("sim", "foreign", "--stop")
    machine.change("switch", "two")
    machine.whole("two")


def test_a_stranger_on_a_port_is_named_and_lives_on(machine: Machine) -> None:
    machine.change("service", "start", "embedding-code")
    port = machine.ports["glm-code"]
    with subprocess.Popen([sys.executable, "-c", LISTEN + SERVE, str(port)], stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            outcome = machine.quick("switch", "code")
            assert (outcome.code, outcome.error["code"]) == (1, "port-taken"), outcome
            assert f"(pid {stranger.pid})" in outcome.error["message"]
            assert machine.states() == {"embedding-code": "running"}
            assert stranger.poll() is None
        finally:
            stranger.kill()
    machine.change("switch", "code")
    machine.whole("code")


@pytest.mark.slow
def test_a_port_that_a_service_of_another_home_has_is_told_with_that_home(make_machine: MakeMachine) -> None:
    machine, other = make_machine(), make_machine()
    port = machine.ports["asr"]
    machine.change("service", "start", "asr")
    other.ok("service", "edit", "asr", "--port", str(port))
    refused = other.change("service", "start", "asr", code=1).error
    assert refused["code"] == "port-taken"
    assert refused["message"].endswith(f", service asr of the gpumod home {machine.home}")
    assert refused["why"] == "that is not one of this home's services"
    end = f"`gpumod --home {machine.home} service stop asr` ends it"
    again = "or give the service another port: gpumod service edit asr --port N"
    assert refused["hint"] == f"{end}, {again}"
    (found,) = [check for check in other.quick("doctor").json["checks"] if check["name"] == "service asr"]
    assert found["hint"] == refused["hint"]

    with contextlib.closing(sqlite3.connect(machine.home / "gpumod.db")) as database, database:
        database.execute("DELETE FROM handles")
    machine.ok("service", "edit", "asr", "--port", str(machine.unused.pop()))
    machine.ok("service", "edit", "tts", "--port", str(port))
    refused = machine.change("service", "start", "tts", code=1).error
    assert refused["hint"] == "end it, or give the service another port: gpumod service edit tts --port N"
    assert "`gpumod doctor` tells how to end it" in refused["why"]
    os.kill(refused["details"]["pid"], signal.SIGTERM)


@pytest.mark.slow
def test_of_twenty_changers_from_two_homes_one_holds_and_the_others_are_told_who(
    make_machine: MakeMachine, until
) -> None:
    machine = make_machine()
    other = make_machine(beside=machine)
    machine.change("service", "start", "asr")
    machine.ok("settings", "set", "release_timeout_s", "120")
    machine.sim.configure(lag_s=120.0)  # the first change cannot end before this is lowered: it waits for memory
    watch = machine.watch()
    holder = machine.begin("switch", "code")
    until(lambda: machine.status()["busy"], "the first changer to hold the machine")
    assert f"switch code (pid {holder.pid}" in other.status()["busy"]

    modes = ("rag", "speak", "blank", "code")
    changers = [(home, home.begin("switch", modes[n % 4])) for n in range(9) for home in (machine, other)]
    changers.append((other, other.begin("service", "start", "embedding")))
    for home, process in changers:
        outcome = home.end(process)
        assert (outcome.code, outcome.error["code"]) == (5, "machine-busy"), outcome
        assert "switch code" in outcome.error["message"]
        assert f"process {holder.pid}, home {machine.home}" in outcome.error["why"]
    assert holder.poll() is None
    machine.sim.configure(lag_s=0.05)
    assert machine.end(holder).code == 0
    machine.whole("code")
    assert other.states() == {}

    refused = other.change("switch", "speak", code=3)
    assert refused.json["plan"]["gpus"][0]["foreign_mb"] == sum(machine.held().values())
    machine.change("switch", "blank")
    other.change("switch", "speak")
    other.whole("speak")
    assert max(used_mb for event in watch.events() for used_mb in event["used_mb"].values()) <= BUDGET_MB


@pytest.mark.slow
def test_changers_that_race_leave_one_whole_mode(machine: Machine) -> None:
    watch = machine.watch()
    racers = [(mode, machine.begin("switch", mode)) for mode in ("code", "blank", "code")]
    done = [(mode, machine.end(process)) for mode, process in racers]
    assert {outcome.code for _, outcome in done} <= {0, 5}, done
    assert machine.status()["mode"] in [mode for mode, outcome in done if outcome.code == 0]
    machine.whole(machine.status()["mode"])
    assert max(used_mb for event in watch.events() for used_mb in event["used_mb"].values()) <= BUDGET_MB
