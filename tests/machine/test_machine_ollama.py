"""An Ollama and its models in modes, on the stand-in: loaded, unloaded, refused, killed, adopted; nothing is pulled."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from gpumod_sim.ollama_models import add_model
from tests.machine.conftest import fetch
from tests.machine.strangers import started

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.sim, pytest.mark.slow]

SIZES = {"llama": ("llama3:8b", 8000), "coder": ("coder:latest", 14_000), "small": ("small:1b", 1000)}
RUNS_MB = 500
"""What the stand-in's runner takes beside the weights."""


def mb(member: str) -> int:
    return SIZES[member][1] + RUNS_MB


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name, size_mb in SIZES.values():
        add_model(str(folder), name, size_mb, embeds=name == "small:1b")
    return folder


@pytest.fixture
def ollama(machine: Machine, models: Path) -> Machine:
    """Modes `talking` (llama and small awake, coder asleep) and `coding` (coder awake, the others asleep)."""
    port = machine.ports["ollama"] = machine.unused.pop()
    words = ("--driver", "ollama", "--port", str(port), "--set", f"models_dir={models}")
    machine.ok("service", "add", "--id", "ollama", *words)
    for member, (name, _) in SIZES.items():
        add_member(machine, member, name)
    machine.ok("mode", "create", "talking", "--services", "llama,small,coder", "--asleep", "coder")
    machine.ok("mode", "create", "coding", "--services", "llama,small,coder", "--asleep", "llama,small")
    return machine


def add_member(machine: Machine, member: str, model: str) -> None:
    size_mb = mb(member) if member in SIZES else 500
    words = ("--driver", "ollama", "--host-service", "ollama", "--model-id", model, "--sleep-mode", "unload")
    machine.ok("service", "add", "--id", member, *words, "--vram-mb", str(size_mb))


def loaded(machine: Machine) -> set[str]:
    told = json.loads(fetch(f"http://127.0.0.1:{machine.ports['ollama']}/api/ps"))
    return {model["name"] for model in told["models"]}


def steps(done: Outcome) -> set[tuple[str, str]]:
    return {(one["action"], one["service"]) for one in done.json["steps"] if one["action"] != "verify"}


def rows(machine: Machine) -> dict[str, Any]:
    return {row["id"]: row for row in machine.status()["services"]}


def test_models_are_loaded_and_unloaded_in_a_switch(ollama: Machine) -> None:
    machine, watch = ollama, ollama.watch()
    machine.change("switch", "talking", watch=watch)
    machine.whole("talking")
    assert loaded(machine) == {"llama3:8b", "small:1b"}
    assert machine.held() == {"ollama": mb("llama") + mb("small")}
    shown = rows(machine)
    assert (shown["llama"]["vram_mb"], shown["small"]["vram_mb"]) == (mb("llama"), mb("small"))
    assert not shown["ollama"]["vram_mb"]
    assert shown["coder"]["state"] == "sleeping"
    began = {name: shown[name]["pid"] for name in ("ollama", "llama")}
    assert began["llama"] in {child.pid for child in psutil.Process(began["ollama"]).children(recursive=True)}

    body = {"model": "llama3:8b", "prompt": "hello", "stream": False, "options": {"num_predict": 20_000}}
    url = f"http://127.0.0.1:{machine.ports['ollama']}/api/generate"
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(json.loads(fetch(url, body))))
    asking.start()
    done = machine.change("switch", "coding", watch=watch)
    asking.join()
    assert got[0]["response"] == "5 characters read"
    machine.whole("coding")
    assert {("sleep", "llama"), ("wake", "coder")} <= steps(done)
    assert loaded(machine) == {"coder:latest"}
    assert machine.held() == {"ollama": mb("coder")}
    assert rows(machine)["ollama"]["pid"] == began["ollama"]
    machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()


def test_each_fault_of_a_model_is_named_and_undone(ollama: Machine) -> None:
    machine = ollama
    machine.ok("service", "edit", "llama", "--set", "unload_timeout_s=0.7")
    machine.change("switch", "talking")
    held = machine.held()
    for model, kind, code, culprit in (
        ("llama3:8b", "sleep-500", "unload-failed", "llama"),
        ("llama3:8b", "sleep-hangs", "unload-timeout", "llama"),
        ("coder:latest", "wake-oom", "out-of-memory", "coder"),
    ):
        machine.fault(model, kind)
        failed = machine.change("switch", "coding", code=6)
        assert (failed.error["code"], failed.json["status"]) == (code, "rolled-back"), (kind, failed)
        assert culprit in failed.error["message"]
        machine.clear()
        machine.whole("talking")
        assert machine.held() == held, kind
    add_member(machine, "none", "none:70b")
    unknown = machine.change("service", "start", "none", code=6)
    assert unknown.error["code"] == "unknown-member"
    assert "ollama pull none:70b" in unknown.error["hint"]
    machine.whole("talking")


def test_a_model_whose_process_keeps_its_memory_is_not_taken_for_asleep(ollama: Machine) -> None:
    machine = ollama
    machine.change("switch", "talking")
    machine.fault("llama3:8b", "sleep-frees-nothing")
    done = machine.change("switch", "coding", code=6)
    assert (done.error["code"], done.error["details"]["service"]) == ("memory-not-released", "llama"), done
    machine.clear()


def test_a_killed_runner_and_a_killed_ollama(ollama: Machine, until: Callable[..., Any]) -> None:
    machine = ollama
    machine.change("switch", "talking")
    os.kill(rows(machine)["llama"]["pid"], signal.SIGKILL)
    until(lambda: "llama3:8b" not in loaded(machine), "it to be missed")
    assert machine.states()["llama"] == "sleeping", "the next request would load it"
    machine.change("switch", "talking")
    machine.whole("talking")
    os.kill(rows(machine)["ollama"]["pid"], signal.SIGKILL)
    until(lambda: machine.states()["ollama"] == "failed", "it to be missed")
    machine.change("switch", "talking")
    machine.whole("talking")
    assert loaded(machine) == {"llama3:8b", "small:1b"}


def test_an_adopted_ollama_has_members_too(machine: Machine, models: Path, until: Callable[..., Any]) -> None:
    port = machine.ports["ollama"] = machine.unused.pop()
    env = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(models)}
    program = str(Path(machine.sim.folder) / "bin" / "ollama")
    with started(program, "serve", ready=f"http://127.0.0.1:{port}/", until=until, **env) as process:
        done = machine.ok("import", "ollama", "--port", str(port)).json
        service = done["rows"][0]["service"]
        assert (service["driver"], service["adopted"]["pid"]) == ("ollama", process.pid)
        assert any("with it as their host" in note for note in done["rows"][0]["notes"])
        machine.ok("service", "edit", "ollama", "--vram-mb", "0")
        add_member(machine, "llama", "llama3:8b")
        machine.change("service", "start", "llama")
        assert loaded(machine) == {"llama3:8b"}
        assert rows(machine)["llama"]["vram_mb"] == mb("llama")
        machine.change("service", "sleep", "llama")
        assert loaded(machine) == set()
        machine.change("service", "stop", "llama")
        assert process.poll() is None
        machine.ok("service", "remove", "llama")
        machine.ok("service", "release", "ollama")
