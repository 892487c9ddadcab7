"""Five things that somebody else set up are adopted under a real systemd, used, and let go again untouched."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.machine.strangers import answers, load_model, started, write_models, write_proxy, write_swap

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sim]

IN_BOX = os.environ.get("GPUMOD_TEST_BOX") == "1"
FOLDERS = {"system": Path("/etc/systemd/system"), "user": Path.home() / ".config/systemd/user"}
UNIT = """# written by hand, and it stays so
[Unit]
Description={name}

[Service]
Environment=PATH={path} "NOTE=two words"
{more}
ExecStart={command}
Restart=on-failure

[Install]
WantedBy=default.target
"""


def systemctl(scope: str, *words: str) -> str:
    user = ["--user"] if scope == "user" else []
    return subprocess.run(["systemctl", *user, *words], capture_output=True, text=True).stdout.strip()


@dataclass
class Units:
    """Units of somebody's, by name, with what is to be compared afterwards."""

    until: Callable[..., Any]
    scopes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, scope: str, command: str, ready: str, more: str = "") -> None:
        if not IN_BOX:
            raise RuntimeError("this writes units: never outside of the box")
        file = FOLDERS[scope] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(UNIT.format(name=name, command=command, more=more, path=os.environ["PATH"]))
        self.scopes[name] = scope
        systemctl(scope, "start", "--no-block", name)
        self.until(lambda: answers(ready), f"{name} to answer")

    def pid(self, name: str) -> int:
        return int(systemctl(self.scopes[name], "show", "--value", "-p", "MainPID", name))

    def mark(self) -> Mapping[str, object]:
        """What must be the same afterwards: every file there with its digest and times, and who runs."""
        files = [path for folder in FOLDERS.values() for path in folder.rglob("*") if path.is_file()]
        marks: dict[str, object] = {
            str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files
        }
        for name, scope in self.scopes.items():
            asked = ("UnitFileState", "DropInPaths", "MainPID", "InvocationID", "NeedDaemonReload", "FragmentPath")
            marks[name] = systemctl(scope, "show", *(f"--property={one}" for one in asked), name)
        return marks

    def sweep(self) -> None:
        for name, scope in self.scopes.items():
            systemctl(scope, "stop", name)
            systemctl(scope, "reset-failed", name)
            (FOLDERS[scope] / name).unlink(missing_ok=True)
            systemctl(scope, "daemon-reload")


@pytest.fixture
def units(machine: Machine, until: Callable[..., Any]) -> Iterator[Units]:
    made = Units(until)
    yield made
    made.sweep()


@dataclass
class Five:
    """The five, once they run: where each answers."""

    writer: int
    helper: int
    voice: int
    ollama: int
    process: subprocess.Popen[bytes]
    swap: Path


@pytest.fixture
def five(machine: Machine, units: Units, until: Callable[..., Any], tmp_path: Path) -> Iterator[Five]:
    """A user unit (vLLM behind a shell), a system unit (llama.cpp), a process, an ollama, and a llama-swap file."""
    tools = Path(machine.sim.folder) / "bin"
    writer, helper, voice, ollama = (machine.unused.pop() for _ in range(4))
    vllm = f"{tools}/vllm serve acme/Writer --port {writer} --gpu-memory-utilization 0.2 --enable-sleep-mode"
    home = "http://127.0.0.1:"
    units.add(
        "writer.service", "user", f"/bin/bash -c 'cd / && exec {vllm}'", f"{home}{writer}/health",
        "Environment=VLLM_SERVER_DEV_MODE=1",
    )  # fmt: skip
    model = tmp_path / "helper.gguf"
    model.write_bytes(b"0" * 1_000_000)
    units.add(
        "helper.service", "system", f"{tools}/llama-server -m {model} --port {helper} -ngl 99 --alias helper",
        f"{home}{helper}/health", "Environment=GPUMOD_VRAM_MB=3000",
    )  # fmt: skip
    units.add(
        "ollama.service", "system", f"{tools}/ollama serve", f"{home}{ollama}/",
        f"Environment=OLLAMA_HOST=127.0.0.1:{ollama} OLLAMA_MODELS={write_models(tmp_path)}",
    )  # fmt: skip
    load_model(ollama)
    swap = write_swap(tmp_path, bin=tools, port=machine.unused[0], voice=machine.unused[-1])
    argv = (str(tools / "uvicorn"), "app:app", "--port", str(voice))
    with started(*argv, ready=f"{home}{voice}/health", until=until, GPUMOD_VRAM_MB="2000") as process:
        yield Five(writer, helper, voice, ollama, process, swap)


def row(machine: Machine, service: str) -> Any:
    return next(row for row in machine.status()["services"] if row["id"] == service)


def test_five_things_are_adopted_used_and_let_go(machine: Machine, units: Units, five: Five) -> None:
    before, swap = units.mark(), five.swap.read_bytes()
    foreign_mb = machine.status()["gpus"][0]["foreign_mb"]
    assert foreign_mb > 10_000

    proposed = {p["what"]: p for p in machine.ok("init").json["proposals"]}
    assert {"user unit writer.service", "system unit helper.service", "system unit ollama.service"} <= set(proposed)
    assert f"process {five.process.pid}" in proposed
    assert not any(what.startswith("system unit user@") for what in proposed)  # who holds the writer's manager
    refused = machine.quick("service", "adopt", f"user@{os.getuid()}.service", "--manager", "system")
    assert (refused.code, refused.error["code"]) == (2, "users-manager")
    assert units.mark() == before

    writer = machine.ok("service", "adopt", "writer.service").json
    assert (writer["service"]["driver"], writer["service"]["port"]) == ("vllm", five.writer)
    assert writer["service"]["sleep_mode"] == "l1"
    assert writer["footprint"]["sources"]["vram_mb"] == "measured"
    helper = machine.ok("service", "adopt", "helper", "--manager", "system").json["service"]
    assert (helper["driver"], helper["port"], helper["vram_mb"]) == ("llamacpp", five.helper, 3000)
    voice = machine.ok("service", "adopt", str(five.process.pid), "--id", "voice-of-others").json["service"]
    assert (voice["driver"], voice["port"]) == ("fastapi", five.voice)
    ollama = machine.ok("import", "ollama", "--port", str(five.ollama)).json["rows"][0]["service"]
    assert {k: v for k, v in ollama["adopted"].items() if v} == {"unit": "ollama.service", "manager": "system"}
    imported = {row["id"]: row["action"] for row in machine.ok("import", "llama-swap", str(five.swap)).json["rows"]}
    assert [name for name, action in imported.items() if action == "added"] == ["org-big-30b", "small", "voice"]
    assert imported["writer"] == "kept"  # a service that is there is not replaced

    theirs = {"writer", "helper", "voice-of-others", "ollama"}
    assert {s: state for s, state in machine.states().items() if s in theirs} == dict.fromkeys(theirs, "running")
    assert machine.status()["gpus"][0]["foreign_mb"] == 0
    assert sum(row(machine, service)["vram_mb"] for service in theirs) == foreign_mb

    machine.change("switch", "blank")  # names none of them
    assert theirs <= set(machine.states())
    assert machine.ok("mode", "verify", "blank").json["whole"]
    assert units.mark() == before
    machine.ok("mode", "create", "mine", "--services", "small,writer")
    machine.change("switch", "mine")
    assert {"small", *theirs} == set(machine.states())
    machine.change("switch", "blank")
    assert theirs == set(machine.states())
    assert units.mark() == before

    for service in theirs:
        machine.ok("service", "release", service, "--cascade")
    assert units.mark() == before
    assert five.process.poll() is None
    assert five.swap.read_bytes() == swap
    assert machine.status()["gpus"][0]["foreign_mb"] == foreign_mb


@pytest.mark.usefixtures("five")
def test_an_adopted_unit_is_slept_stopped_and_started(
    machine: Machine, units: Units, until: Callable[..., Any]
) -> None:
    machine.ok("service", "adopt", "writer.service")
    machine.ok("service", "adopt", "helper.service")
    files = {name: mark for name, mark in units.mark().items() if name.startswith("/")}
    machine.change("service", "sleep", "writer")
    assert row(machine, "writer")["state"] == "sleeping"
    machine.change("service", "wake", "writer")

    first = units.pid("helper.service")
    machine.change("service", "stop", "helper")
    assert not psutil.pid_exists(first)
    assert systemctl("system", "is-active", "helper.service") == "inactive"
    assert row(machine, "helper")["state"] == "stopped"
    systemctl("system", "start", "helper.service")  # by whoever it belongs to
    until(lambda: row(machine, "helper")["state"] == "running", "helper to run")
    machine.change("service", "restart", "helper")
    second = units.pid("helper.service")
    assert row(machine, "helper")["pid"] == second
    lines = machine.ok("service", "logs", "helper").json["lines"]
    assert any("listening" in line or "model" in line for line in lines), lines
    machine.change("service", "stop", "helper")

    machine.fault("llama-server", "oom-at-start")
    systemctl("system", "reset-failed", "helper.service")
    done = machine.change("service", "start", "helper", code=6)
    assert done.error["code"] in ("out-of-memory", "died-while-starting", "systemd-refused"), done
    machine.clear()
    systemctl("system", "reset-failed", "helper.service")
    machine.change("service", "start", "helper")
    assert {name: mark for name, mark in units.mark().items() if name.startswith("/")} == files


@pytest.mark.usefixtures("five")
def test_a_unit_that_went_away_and_one_that_is_asked_for_wrongly(machine: Machine, units: Units) -> None:
    pid = units.pid("helper.service")
    done = machine.quick("service", "adopt", str(pid))
    assert (done.code, done.error["code"]) == (2, "is-a-unit"), done
    assert "gpumod service adopt helper.service --manager system" in done.error["hint"]
    done = machine.quick("service", "adopt", "helper.service", "--manager", "user")
    assert (done.code, done.error["code"]) == (4, "nothing-to-adopt"), done
    machine.ok("settings", "set", "supervisor", "systemd-user")
    machine.change("service", "start", "hyde")
    own = systemctl("user", "list-units", "--plain", "--no-legend", "gpumod-*").split()[0]
    assert machine.quick("service", "adopt", own).error["code"] == "own-unit"

    machine.ok("service", "adopt", "helper.service")
    systemctl("system", "stop", "helper.service")
    file = FOLDERS["system"] / "helper.service"
    kept = file.read_text()
    file.unlink()
    systemctl("system", "daemon-reload")
    done = machine.quick("service", "start", "helper")
    assert (done.code, done.error["code"]) == (1, "unit-gone"), done
    assert "unit-gone" in str(machine.quick("doctor").json) or "cannot be started" in str(machine.quick("doctor").json)
    file.write_text(kept)
    machine.ok("service", "release", "helper")


@pytest.mark.slow
def test_a_start_that_never_ends_for_systemd_ends_when_it_answers(machine: Machine, units: Units) -> None:
    port, tools = machine.unused.pop(), Path(machine.sim.folder) / "bin"
    units.add(
        "quiet.service", "system", f"{tools}/uvicorn app:app --port {port}", f"http://127.0.0.1:{port}/health",
        "Type=notify\nTimeoutStartSec=infinity\nEnvironment=GPUMOD_VRAM_MB=1000",
    )  # fmt: skip
    machine.ok("service", "adopt", "quiet.service")
    machine.change("service", "stop", "quiet")
    machine.change("service", "start", "quiet", "--timeout", "60")
    assert row(machine, "quiet")["state"] == "running"
    assert systemctl("system", "is-active", "quiet.service") == "activating"
    machine.change("service", "stop", "quiet")
    machine.fault("uvicorn", "never-ready")
    done = machine.change("service", "start", "quiet", "--timeout", "2", code=6)
    assert done.error["code"] == "start-timeout", done
    assert systemctl("system", "is-active", "quiet.service") == "inactive"
    machine.ok("service", "release", "quiet")


@pytest.mark.slow
def test_what_runs_in_a_container_is_left_to_its_engine(
    machine: Machine, units: Units, until: Callable[..., Any], tmp_path: Path
) -> None:
    port, inner, box = machine.unused.pop(), machine.unused.pop(), secrets.token_hex(32)
    env = {"OLLAMA_HOST": f"127.0.0.1:{inner}", "OLLAMA_MODELS": str(write_models(tmp_path))}
    ollama = str(Path(machine.sim.folder) / "bin" / "ollama")
    argv = ("systemd-run", "--quiet", "--scope", f"--unit=docker-{box}", ollama, "serve")
    with started(*argv, ready=f"http://127.0.0.1:{inner}/", until=until, **env) as process:
        units.add("engine.service", "system", f"{write_proxy(tmp_path)} {port} {inner}", f"http://127.0.0.1:{port}/")
        engine = units.pid("engine.service")
        done = machine.quick("import", "ollama", "--port", str(port))
        assert (done.code, done.error["code"]) == (2, "not-itself"), done
        assert "system unit engine.service is not it" in done.error["message"]
        for words in (("import", "ollama", "--port", str(inner)), ("service", "adopt", str(process.pid))):
            done = machine.quick(*words)
            assert (done.code, done.error["code"]) == (2, "in-container"), done
            assert f"docker stop {box[:12]}" in done.error["hint"]
        load_model(inner)
        found = machine.ok("init", "--yes").json["proposals"]
        proposal = next(p for p in found if p["held_mb"] == 5000)
        assert proposal["problem"]["code"] == "in-container"
        assert not [r["id"] for r in machine.ok("service", "list").json["services"] if r["adopted"]]
        assert units.pid("engine.service") == engine
        assert process.poll() is None
