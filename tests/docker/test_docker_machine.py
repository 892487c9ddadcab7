"""Containers in modes, beside plain processes, by the real program on a real Docker Engine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod_sim import ledger as sim_ledger
from gpumod_sim import procs
from tests.docker.dockerd import HTTPD, PYTHON, Dockerd
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.docker, pytest.mark.sim]
VRAM_MB = 4000


def add(machine: Machine, service: str, *more: str, image: str = HTTPD, vram_mb: int = 0) -> int:
    """Define a container service on a port of this test's, which leads to 8000 in there."""
    port = machine.ports[service] = machine.unused.pop()
    words = ("--driver", "docker", "--port", str(port), "--vram-mb", str(vram_mb))
    options = (f"image={image}", f"ports={port}:8000", "stop_timeout_s=5")
    machine.ok("service", "add", "--id", service, *words, *(w for o in options for w in ("--set", o)), *more)
    return port


def name(machine: Machine, service: str) -> str:
    return f"gpumod-{service}.{(machine.home / 'home-id').read_text().strip()}"


def inspect(engine: Dockerd, machine: Machine, service: str = "web") -> Any:
    return json.loads(engine.said("inspect", name(machine, service)))[0]


def row(machine: Machine, service: str) -> Any:
    return next(row for row in machine.status()["services"] if row["id"] == service)


def test_its_whole_life_in_a_mode_with_a_process(machine: Machine, engine: Dockerd) -> None:
    port = add(machine, "web")
    machine.ok("mode", "create", "both", "--services", "web,tts")
    plan = machine.ok("simulate", "--mode", "both").json
    assert {step["service"] for step in plan["steps"]} >= {"web", "tts"}
    assert engine.said("ps", "-aq") == "", "a simulation makes no container"

    machine.change("switch", "both")
    machine.whole("both")
    assert machine.states() == {"web": "running", "tts": "running"}
    assert fetch(f"http://127.0.0.1:{port}/health") == "fine\n"
    machine.ask("tts")
    seen = inspect(engine, machine)
    assert (seen["State"]["Running"], seen["HostConfig"]["Privileged"], seen["HostConfig"]["CapDrop"]) == (
        True, False, ["ALL"],
    )  # fmt: skip
    assert seen["NetworkSettings"]["Ports"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    assert row(machine, "web")["pid"] != seen["State"]["Pid"], "the engine's init is not the service"

    machine.change("switch", "blank")
    machine.nothing_left()
    assert inspect(engine, machine)["Id"] == seen["Id"], "it stays, stopped"
    machine.change("switch", "both")
    assert inspect(engine, machine)["Id"] == seen["Id"], "its definition is the same: it is the same container"

    machine.ok("service", "edit", "web", "--set", "environment=A=1")
    assert row(machine, "web")["drift"], "what runs is not what is defined"
    assert inspect(engine, machine)["Id"] == seen["Id"]
    machine.change("service", "restart", "web")
    again = inspect(engine, machine)
    assert again["Id"] != seen["Id"]
    assert "A=1" in again["Config"]["Env"]
    assert len(engine.said("ps", "-aq").split()) == 1, "the old one is gone"

    machine.change("switch", "blank")
    machine.ok("mode", "delete", "both")
    machine.ok("service", "remove", "web")
    assert engine.said("ps", "-aq") == "", "nothing of a service that is removed stays"
    assert not (machine.home / "containers" / "web").exists()


def test_a_killed_one_is_told_with_its_exit_code(machine: Machine, engine: Dockerd) -> None:
    add(machine, "web")
    machine.change("service", "start", "web")
    os.kill(row(machine, "web")["pid"], signal.SIGKILL)
    wait(lambda: row(machine, "web")["state"] == "failed")
    assert "signal 9" in row(machine, "web")["last_error"]
    machine.change("service", "start", "web")
    assert row(machine, "web")["state"] == "running"
    machine.change("service", "stop", "web")


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        ("import sys; print('no such model'); sys.exit(3)", (), ("exited with code 3", "no such model")),
        ("import os, time; print('x', flush=True); time.sleep(.4); os.kill(os.getpid(), 9)", (), ("signal 9", "x")),
        ("b = bytearray(400 << 20)", ("memory_mb=64",), ("host memory, not of VRAM", "64 MiB")),
    ],
)
def test_one_that_ends_while_it_starts_says_why(
    machine: Machine, engine: Dockerd, command: str, more: tuple[str, ...], says: tuple[str, ...]
) -> None:
    import sys

    words = json.dumps([sys.executable, "-I", "-S", "-c", command])
    add(machine, "web", "--set", f"entrypoint={words}", *(w for o in more for w in ("--set", o)), image=PYTHON)
    done = machine.change("service", "start", "web", code=6)
    assert done.error["code"] == "died-while-starting", done
    told = f"{done.error['message']} {done.error['why']} {done.error['details']['log']}"
    assert all(word in told for word in says), told
    assert machine.states() == {}


def test_it_is_adopted_after_a_kill_in_mid_switch(machine: Machine, engine: Dockerd, until: Callable[..., Any]) -> None:
    """The container is started when gpumod is killed; it goes on, is known, and is not started twice."""
    add(machine, "web")
    machine.ok("mode", "create", "both", "--services", "web,tts")
    machine.fault("tts", "slow-start", 200.0)
    for back in ("--resume", "--rollback"):
        process = machine.begin("switch", "both")
        until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'spawned' AND subject = 'tts'"), "tts to spawn")
        until(lambda: engine.said("ps", "-q"), "the container to run")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen = inspect(engine, machine)
        assert seen["State"]["Running"]
        refused = machine.quick("switch", "code")
        assert (refused.code, refused.error["code"]) == (7, "interrupted-run")
        assert machine.states()["web"] == "running"
        machine.clear()
        machine.change("recover", back)
        now = inspect(engine, machine)
        assert now["Id"] == seen["Id"]
        if back == "--resume":
            machine.whole("both")
            assert now["State"]["StartedAt"] == seen["State"]["StartedAt"], "it was never stopped"
            machine.change("switch", "blank")
            machine.fault("tts", "slow-start", 200.0)
            clear_events(machine)
        else:
            assert not now["State"]["Running"]
            machine.nothing_left()


def clear_events(machine: Machine) -> None:
    """What is waited for must happen again."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(machine.home / "gpumod.db")) as connection, connection:
        connection.execute("DELETE FROM events WHERE kind = 'spawned'")


@pytest.mark.parametrize("moment", ["before the token", "before the container"])
def test_a_kill_around_the_start_of_the_container(machine: Machine, engine: Dockerd, moment: str) -> None:
    """Between the journal and the engine's answer: found by its labels alone, or known not to be there."""
    add(machine, "web")
    process = machine.begin("service", "start", "web")
    if moment == "before the container":
        wait(lambda: machine.sql("SELECT 1 FROM handles WHERE service = 'web'"))
    else:
        wait(lambda: engine.docker("inspect", name(machine, "web"), check=False).returncode == 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    machine.change("recover", "--resume")
    assert machine.states() == {"web": "running"}
    assert len(engine.said("ps", "-q").split()) == 1
    machine.change("switch", "blank")
    machine.nothing_left()


def test_strangers_are_not_touched(machine: Machine, engine: Dockerd, make_machine: Callable[..., Machine]) -> None:
    """Another's container, one that looks like ours, another home's, and one that has the name that we would give."""
    mark = "gpumod.service=web"
    engine.docker("run", "-d", "--name", "theirs", HTTPD)
    engine.docker("run", "-d", "--name", "gpumod-web", "--label", mark, HTTPD)
    engine.docker("create", "--name", "stopped", "--label", mark, "--label", "gpumod.home=0123456789ab", HTTPD)
    strangers = {one: inspect_plain(engine, one) for one in ("theirs", "gpumod-web", "stopped")}
    other = make_machine()
    add(other, "web")
    other.change("service", "start", "web")
    theirs = inspect(engine, other)

    add(machine, "web")
    machine.change("service", "start", "web")
    machine.change("service", "restart", "web")
    machine.change("switch", "blank")
    machine.ok("service", "remove", "web")
    assert {one: inspect_plain(engine, one) for one in strangers} == strangers
    assert inspect(engine, other)["State"]["StartedAt"] == theirs["State"]["StartedAt"]

    add(machine, "taken")
    engine.docker("run", "-d", "--name", name(machine, "taken"), HTTPD)
    before = inspect_plain(engine, name(machine, "taken"))
    done = machine.quick("service", "start", "taken")
    assert done.error["code"] == "foreign-container", done
    assert inspect_plain(engine, name(machine, "taken")) == before
    other.change("switch", "blank")


def inspect_plain(engine: Dockerd, container: str) -> Any:
    return json.loads(engine.said("inspect", container))


def test_its_processes_are_those_that_hold_the_gpu(machine: Machine, engine: Dockerd) -> None:
    """A start waits for memory at the container's processes, as this machine counts them; a stop, until it is back."""
    add(machine, "web", vram_mb=VRAM_MB)
    done: Outcome
    with holding(machine, engine, "web"):
        done = machine.change("service", "start", "web")
    assert done.json["plan"]["steps"][0]["takes_mb"] == {"0": VRAM_MB}
    gpu = machine.status()["gpus"][0]
    assert (row(machine, "web")["vram_mb"], gpu["foreign_mb"]) == (VRAM_MB, 0)
    machine.change("service", "stop", "web")
    machine.nothing_left()

    failed = machine.quick("service", "start", "web")  # nobody takes the memory now: it fell back to the CPU
    assert failed.error["code"] == "cpu-fallback", failed
    assert machine.states() == {}


@contextmanager
def holding(machine: Machine, engine: Dockerd, service: str) -> Iterator[None]:
    """As soon as the container runs, its main process holds memory: written for it, as it cannot see the ledger."""

    def hold() -> None:
        wait(lambda: engine.docker("inspect", name(machine, service), check=False).returncode == 0)
        top = wait(lambda: inspect(engine, machine, service)["State"]["Pid"])
        pid = int(Path(f"/proc/{top}/task/{top}/children").read_text().split()[0])
        ledger = sim_ledger.Ledger(machine.sim)
        with machine.sim.lock():
            rows = ledger._pruned()
            rows.append(sim_ledger._row((pid, procs.start_time(pid), None), service, 0, VRAM_MB))
            ledger._save(rows, [])

    worker = threading.Thread(target=hold, daemon=True)
    worker.start()
    yield
    worker.join(5)


def wait(look: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
