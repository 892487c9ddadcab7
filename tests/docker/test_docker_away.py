"""Without an engine: told before anything is changed, with the status that says that the machine lacks something."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.dockerd import Dockerd
from tests.docker.test_docker_machine import add, inspect, row, wait

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim


def test_a_switch_is_refused_before_anything_stops(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    add(machine, "web")
    vllm = ("--driver", "vllm", "--run-with", "docker", "--model-id", "a/b", "--set", 'container={"image": "a"}')
    machine.ok("service", "add", "--id", "inside", *vllm, "--port", str(machine.unused.pop()), "--vram-mb", "100")
    machine.ok("mode", "create", "web", "--services", "web")
    machine.change("service", "start", "tts")
    pid = row(machine, "tts")["pid"]
    done = machine.quick("switch", "web")
    assert (done.code, done.error["code"]) == (9, "no-engine"), done
    assert "DOCKER_HOST" in done.error["hint"]
    assert (machine.states(), row(machine, "tts")["pid"]) == ({"tts": "running"}, pid)
    found = machine.quick("doctor").json["checks"]
    assert [c["name"] for c in found if "no container engine" in c["message"]] == ["services"]
    assert not [c for c in found if "listen" in c["message"] and c["level"] != "ok"], "in a network of its own alone"
    machine.ok("service", "remove", "web", "--cascade")


def test_what_is_refused_is_refused_when_it_is_defined(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, or by a file; whichever driver it is that is to run in a container."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    words = ("--driver", "docker", "--port", str(machine.unused.pop()), "--vram-mb", "0", "--set", "image=a")
    for option in ("privileged=true", "network_mode=host", 'volumes=["/etc:/x"]', 'environment={"LD_PRELOAD": "x"}'):
        done = machine.quick("service", "add", "--id", "bad", *words, "--set", option)
        assert (done.code, done.error["code"]) == (2, "bad-options"), done
        assert "refused" in done.error["why"] or "may not be set" in done.error["why"]
    folder = tmp_path / "presets"
    folder.mkdir()
    inside = "unit_vars: {command: serve, container: {image: a, privileged: true}}"
    texts = {
        "own": "id: own\ndriver: docker\nport: 7898\nvram_mb: 0\nunit_vars: {image: a, privileged: true}\n",
        "others": f"id: others\ndriver: fastapi\nrun_with: docker\nport: 7899\nvram_mb: 0\n{inside}\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
        said = machine.quick("preset", "validate", str(folder / f"{name}.yaml"))
        assert (said.code, "privileged" in said.stdout) == (1, True), said
    loaded = machine.quick("preset", "load", "--folder", str(folder))
    assert loaded.stdout.count("SEC-D7") >= len(texts), loaded
    for name in texts:
        done = machine.quick("service", "start", name)
        assert done.code == 4, done
    assert machine.states() == {}


@pytest.mark.docker
def test_an_engine_that_hangs(machine: Machine, engine: Dockerd) -> None:
    """What is asked ends all the same, and says that it does not know."""
    add(machine, "web")
    machine.change("service", "start", "web")
    machine.change("service", "start", "tts")
    with engine.stopped():
        began = time.monotonic()
        found = {row["id"]: row["state"] for row in machine.status()["services"]}
        assert time.monotonic() - began < 15
        assert (found["web"], found["tts"]) == ("unknown", "running")
    assert row(machine, "web")["state"] == "running"
    machine.change("switch", "blank")


@pytest.mark.docker
def test_an_engine_that_goes_and_comes_back(machine: Machine, engine: Dockerd) -> None:
    """Its containers end with it, which is told; what is asked meanwhile does not hang, and is not called stopped."""
    add(machine, "web")
    machine.change("service", "start", "web")
    container = inspect(engine, machine)["Id"]
    engine.stop()
    try:
        assert row(machine, "web")["state"] == "unknown"
        done = machine.quick("service", "stop", "web")
        assert (done.code, done.error["code"]) == (9, "no-engine"), done
    finally:
        engine.start()
    wait(lambda: row(machine, "web")["state"] == "failed")
    machine.change("service", "start", "web")
    assert inspect(engine, machine)["Id"] == container
    machine.change("service", "stop", "web")
