"""Services of other drivers in containers: a vLLM keeps its sleep, models are found, a router's file arrives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.dockerd import PYTHON, Dockerd
from tests.docker.runtime import SCRIPT
from tests.docker.test_docker_machine import inspect, name
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.sim]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the stand-in in it, as an image would have it."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program = folder / "runtime"
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(0o755)
    return folder


def container(tools: Path, **more: Any) -> str:
    return json.dumps({"image": PYTHON, "volumes": [f"{tools}:/tools"], "program": "/tools/runtime", **more})


def given(port: int) -> Any:
    return json.loads(fetch(f"http://127.0.0.1:{port}/given"))


def test_a_vllm_in_a_container_sleeps_and_wakes(machine: Machine, engine: Dockerd, tools: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "small"
    model.mkdir(parents=True)
    port = machine.ports["inside"] = machine.unused.pop()
    words = ("--driver", "vllm", "--run-with", "docker", "--port", str(port), "--vram-mb", "100", "--sleep-mode", "l1")
    more = ("--model-path", str(model), "--set", f"container={container(tools)}")
    machine.ok("service", "add", "--id", "inside", *words, *more)
    machine.ok("mode", "create", "awake", "--services", "inside,tts")
    machine.ok("mode", "create", "asleep", "--services", "inside,tts", "--asleep", "inside")
    machine.change("switch", "awake")
    machine.whole("awake")
    told = given(port)
    assert told["argv"][:2] == ["serve", str(model)]
    assert told["argv"][told["argv"].index("--host") + 1] == "0.0.0.0", "in its own network"
    assert "--enable-sleep-mode" in told["argv"]
    assert told["env"]["VLLM_SERVER_DEV_MODE"] == "1"
    before = inspect(engine, machine, "inside")
    assert {m["Target"]: m["ReadOnly"] for m in before["HostConfig"]["Mounts"]} == {"/tools": True, str(model): True}

    machine.change("switch", "asleep")
    machine.whole("asleep")
    assert machine.states() == {"inside": "sleeping", "tts": "running"}
    machine.change("switch", "awake")
    assert machine.states() == {"inside": "running", "tts": "running"}
    after = inspect(engine, machine, "inside")
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"], "it slept; it was not stopped"
    machine.change("switch", "blank")
    machine.nothing_left()


def test_a_model_is_where_its_volume_is(machine: Machine, engine: Dockerd, tools: Path, tmp_path: Path) -> None:
    """A volume of one's own maps the model's path; what a link leads to is there as well."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "a.txt").write_text("weights")
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.txt").symlink_to(models / "a.txt")
    volumes = [f"{tools}:/tools", f"{models}:/models"]
    paths = {"mapped": (models / "a.txt", "/models/a.txt", volumes), "linked": (links / "a.txt", "", volumes[:1])}
    for service, (path, inside, mounted) in paths.items():
        port = machine.ports[service] = machine.unused.pop()
        words = ("--driver", "vllm", "--run-with", "docker", "--port", str(port), "--vram-mb", "100")
        given_ = container(tools, volumes=mounted)
        machine.ok("service", "add", "--id", service, *words, "--model-path", str(path), "--set", f"container={given_}")
        machine.change("service", "start", service)
        assert given(port)["argv"][1] == (inside or str(path))
        assert json.loads(fetch(f"http://127.0.0.1:{port}/file"))["text"] == "weights"
        machine.change("service", "stop", service)


@pytest.mark.parametrize("more", [{}, {"user": "1234:1234"}], ids=["root", "another user"])
def test_a_routers_file_is_read_in_its_container(
    machine: Machine, engine: Dockerd, tools: Path, more: dict[str, str]
) -> None:
    tools.parent.chmod(0o755)
    port = machine.ports["llama-router"]
    machine.ok(
        "service", "edit", "llama-router", "--run-with", "docker", "--set", f"container={container(tools, **more)}"
    )
    machine.change("service", "start", "llama-router")
    argv = given(port)["argv"]
    assert "--models-preset" in argv
    told = engine.said("exec", name(machine, "llama-router"), "/bin/cat", argv[argv.index("--models-preset") + 1])
    assert told.startswith(("version", "#", "[", ";")), told
    refused = engine.docker(
        "exec", name(machine, "llama-router"), "/bin/touch", f"{Path(argv[1]).parent}/x", check=False
    )
    assert b"Read-only" in refused.stderr
    machine.change("service", "stop", "llama-router")


def test_secrets_are_given_and_not_kept_in_files(machine: Machine, engine: Dockerd, tools: Path) -> None:
    port = machine.ports["own"] = machine.unused.pop()
    command = "serve x --host {host} --port {port}"
    words = ("--driver", "fastapi", "--run-with", "docker", "--port", str(port), "--vram-mb", "0")
    machine.ok(
        "service", "add", "--id", "own", *words, "--set", f"command={command}", "--set", f"container={container(tools)}"
    )
    assert machine.quick("service", "secret", "set", "own", "HF_TOKEN", stdin="hf_s3cr3t\n").code == 0
    machine.change("service", "start", "own")
    assert given(port)["env"]["HF_TOKEN"] == "hf_s3cr3t"
    shown = machine.ok("service", "show", "own").stdout + machine.ok("history", "list").stdout
    assert "s3cr3t" not in shown
    for path in (machine.home / "containers").rglob("*"):
        assert not path.is_file() or "s3cr3t" not in path.read_text()
    machine.change("service", "stop", "own")
