"""A container, a unit of a real systemd and a plain process in one mode, in a box that is thrown away."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.dockerd import Dockerd
from tests.docker.test_docker_machine import add, inspect, row
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.systemd, pytest.mark.sim]


def units() -> list[str]:
    words = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "gpumod-*.service"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [line.split()[0].removeprefix("gpumod-").split(".")[0] for line in told.splitlines()]


def test_a_container_beside_a_unit_and_a_process(machine: Machine, engine: Dockerd, until: Callable[..., Any]) -> None:
    port = add(machine, "web")
    machine.ok("service", "edit", "asr", "--run-with", "systemd-system")
    machine.ok("mode", "create", "three", "--services", "web,asr,tts")
    machine.change("switch", "three")
    machine.whole("three")
    assert units() == ["asr"]
    assert inspect(engine, machine)["State"]["Running"]
    assert fetch(f"http://127.0.0.1:{port}/health") == "fine\n"
    tree = row(machine, "web")["pid"]
    group = next(line for line in Path(f"/proc/{tree}/cgroup").read_text().splitlines() if line.startswith("0::"))
    assert inspect(engine, machine)["Id"] in group

    machine.change("switch", "blank")
    machine.nothing_left()
    machine.fault("asr", "slow-start", 200.0)
    process = machine.begin("switch", "three")
    until(lambda: machine.sql("SELECT 1 FROM handles WHERE service = 'asr'"), "asr to be started")
    until(lambda: engine.said("ps", "-q"), "the container to run")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    machine.clear()
    machine.change("recover", "--resume")
    machine.whole("three")
    assert (units(), len(engine.said("ps", "-q").split())) == (["asr"], 1)
    machine.change("switch", "blank")
    machine.nothing_left()
    assert units() == []
