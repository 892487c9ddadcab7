"""An app of one's own in a container keeps its sleep: it is put to sleep and woken by its endpoints, not stopped."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod_fastapi import sleepable
from tests.docker.dockerd import PYTHON, Dockerd
from tests.docker.test_docker_machine import inspect
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.sim]

APP = """#!{python} -IS
import json, sys
sys.path.insert(0, "/tools/lib")
import uvicorn
from sleepable import Sleepable
calls = []
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": json.dumps(calls).encode()}})
slept = Sleepable(app, load=lambda: calls.append("load"), unload=lambda: calls.append("unload"))
uvicorn.run(slept, host=sys.argv[1], port=int(sys.argv[2]))
"""
SLEEP = ("sleep_path=/gpumod/sleep", "wake_path=/gpumod/wake", "activity_path=/gpumod/activity")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """What an image of such an app holds: the app, a copy of `sleepable`, and uvicorn."""
    folder = tmp_path / "tools"
    installed = Path(sysconfig.get_path("purelib"))
    for package in ("uvicorn", "click", "h11"):
        shutil.copytree(installed / package, folder / "lib" / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(installed / "typing_extensions.py", folder / "lib")
    shutil.copy(sleepable.__file__, folder / "lib")
    program = folder / "app"
    program.write_text(APP.format(python=sys.executable))
    program.chmod(0o755)
    return folder


def calls(port: int) -> Any:
    return json.loads(fetch(f"http://127.0.0.1:{port}/calls"))


def test_an_app_of_ones_own_sleeps_in_its_container(machine: Machine, engine: Dockerd, tools: Path) -> None:
    port = machine.ports["own"] = machine.unused.pop()
    given = {"image": PYTHON, "volumes": [f"{tools}:/tools"], "program": "/tools/app"}
    words = ["--driver", "fastapi", "--run-with", "docker", "--port", str(port), "--vram-mb", "100"]
    words += ["--sleep-mode", "http", "--health-endpoint", "/gpumod/health"]
    for option in ("command=app {host} {port}", f"container={json.dumps(given)}", *SLEEP):
        words += ["--set", option]
    machine.ok("service", "add", "--id", "own", *words)
    machine.ok("mode", "create", "awake", "--services", "own,tts")
    machine.ok("mode", "create", "asleep", "--services", "own,tts", "--asleep", "own")
    machine.change("switch", "awake")
    machine.whole("awake")
    before = inspect(engine, machine, "own")
    assert calls(port) == ["load"]

    machine.change("switch", "asleep")
    machine.whole("asleep")
    assert machine.states() == {"own": "sleeping", "tts": "running"}
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/calls", timeout=10)

    machine.change("switch", "awake")
    machine.whole("awake")
    assert calls(port) == ["load", "unload", "load"]
    assert inspect(engine, machine, "own")["State"]["StartedAt"] == before["State"]["StartedAt"], "it was not stopped"
    machine.change("switch", "blank")
    machine.nothing_left()
