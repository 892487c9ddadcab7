"""Containers that somebody else made, adopted by the real program on a real Docker Engine: left as they were."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod_sim import ledger as sim_ledger
from gpumod_sim import procs
from tests.docker.dockerd import HTTPD, PYTHON, Dockerd
from tests.docker.test_docker_machine import add, row
from tests.machine.conftest import fetch, wait_until

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.sim]
HELD_MB = 3000
CHANGES = ("State", "NetworkSettings", "ResolvConfPath", "HostnamePath", "HostsPath", "SandboxID")
"""What the engine itself notes of a start and a stop."""


def inspected(engine: Dockerd, container: str) -> Any:
    return json.loads(engine.said("inspect", container))[0]


def lasting(engine: Dockerd, container: str) -> dict[str, Any]:
    """What of a container is somebody's will: its id, configuration, labels, restart policy, mounts."""
    return {key: value for key, value in inspected(engine, container).items() if key not in CHANGES}


def hold(machine: Machine, pid: int, mb: int = HELD_MB) -> None:
    """Have a process hold memory of the card: one in a container cannot see the ledger."""
    ledger = sim_ledger.Ledger(machine.sim)
    with machine.sim.lock():
        rows = ledger._pruned()
        rows.append(sim_ledger._row((pid, procs.start_time(pid), None), "captions", 0, mb))
        ledger._save(rows, [])


@contextmanager
def holding_again(machine: Machine, engine: Dockerd, name: str) -> Iterator[None]:
    """As soon as the container runs again, it holds memory again."""

    def wait_and_hold() -> None:
        hold(machine, int(wait_until(lambda: inspected(engine, name)["State"]["Pid"], "the container to run")))

    worker = threading.Thread(target=wait_and_hold, daemon=True)
    worker.start()
    yield
    worker.join(5)


def theirs(machine: Machine, engine: Dockerd, *more: str, name: str = "captions", image: str = HTTPD) -> int:
    """A web server in a container, as people run one by hand; its port on this machine."""
    port = machine.unused.pop()
    engine.docker("run", "-d", "--name", name, "-p", f"127.0.0.1:{port}:8000", *more, image)
    wait_until(lambda: answers(port), "the container to answer")
    return port


def answers(port: int) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{port}/health") == "fine\n"
    except OSError:
        return False


def test_its_life_as_a_service_leaves_it_as_it_was(machine: Machine, engine: Dockerd) -> None:
    policy = ("--restart", "unless-stopped", "--stop-timeout", "3")
    port = theirs(machine, engine, *policy, "--label", "com.docker.compose.project=media", "-e", "API_TOKEN=hush-hush")
    before = lasting(engine, "captions")
    pid = int(inspected(engine, "captions")["State"]["Pid"])
    hold(machine, pid)

    proposals = machine.ok("init").json["proposals"]
    assert [(p["id"], p["kind"], p["held_mb"], p["problem"]) for p in proposals] == [
        ("captions", "container", HELD_MB, None)
    ]
    assert proposals[0]["command"] == "gpumod service adopt captions --container --id captions"
    led = machine.quick("service", "adopt", str(pid))
    assert (led.code, led.error["code"]) == (2, "in-container"), led
    assert led.error["hint"] == "gpumod service adopt captions --container"

    taken = machine.ok("service", "adopt", "captions").json
    machine.ports["captions"] = port
    service = taken["service"]
    assert (service["id"], service["driver"], service["port"]) == ("captions", "fastapi", port)
    assert (service["vram_mb"], service["health_endpoint"]) == (HELD_MB, "/health")
    assert service["adopted"]["container"] == before["Id"]
    assert pid in taken["pids"]
    assert any("compose project media" in note for note in taken["notes"])
    assert "hush-hush" not in json.dumps(machine.sql("SELECT * FROM services"))
    shown = row(machine, "captions")
    assert (shown["state"], shown["vram_mb"]) == ("running", HELD_MB)
    assert shown["adopted"] == f"container captions ({before['Id'][:12]})"
    again = machine.quick("service", "adopt", before["Id"][:20])
    assert again.error["code"] == "adopted-already", again

    machine.ok("mode", "create", "talk", "--services", "tts")
    machine.change("switch", "talk")
    assert machine.states()["captions"] == "running", "a switch leaves it up"
    assert int(inspected(engine, "captions")["State"]["Pid"]) == pid
    machine.change("switch", "blank")
    assert machine.states() == {"captions": "running"}

    machine.change("service", "stop", "captions")
    assert not inspected(engine, "captions")["State"]["Running"]
    machine.ok("mode", "create", "both", "--services", "captions,tts")
    with holding_again(machine, engine, "captions"):
        machine.change("switch", "both")
    machine.whole("both")
    assert row(machine, "captions")["vram_mb"] == HELD_MB
    assert answers(port)
    refused = machine.quick("service", "remove", "captions", "--stop", "--cascade")
    assert refused.error["code"] == "adopted", refused

    started = inspected(engine, "captions")["State"]["StartedAt"]
    machine.ok("service", "release", "captions", "--cascade")
    assert inspected(engine, "captions")["State"]["StartedAt"] == started, "it goes on"
    assert lasting(engine, "captions") == before


def test_one_that_was_made_anew_is_another(machine: Machine, engine: Dockerd) -> None:
    theirs(machine, engine)
    engine.docker("stop", "-t", "1", "captions")
    taken = machine.ok("service", "adopt", "captions", "--vram-mb", "0").json
    assert taken["pids"] == []
    assert "captions" not in machine.states()
    engine.docker("rename", "captions", "subtitles")
    machine.change("service", "start", "captions")
    assert machine.states()["captions"] == "running", "it is known by its id, whatever it is called"
    assert machine.quick("service", "adopt", "subtitles").error["code"] == "adopted-already"
    engine.docker("rm", "-f", "subtitles")
    assert row(machine, "captions")["state"] == "stopped"
    told = [c for c in machine.quick("doctor").json["checks"] if c["name"] == "service captions"]
    assert any("ps -a shows what is there" in c["hint"] and "is not there any more" in c["message"] for c in told), told
    assert any("or tells why it cannot be" in c["hint"] for c in told), told

    done = machine.quick("service", "start", "captions")
    assert (done.code, done.error["code"]) == (1, "container-gone"), done
    theirs(machine, engine)
    other = inspected(engine, "captions")
    done = machine.quick("service", "start", "captions")
    assert "was made anew, and is another" in done.error["why"], done
    machine.change("service", "stop", "captions")
    assert inspected(engine, "captions") == other, "what has its name is not touched"
    release, adopt = done.error["hint"].split("; ")
    machine.ok(*release.split()[1:])
    machine.ok(*adopt.split()[1:], "--vram-mb", "0")
    assert machine.states()["captions"] == "running"


def test_a_run_can_be_closed_though_its_container_is_gone(machine: Machine, engine: Dockerd) -> None:
    theirs(machine, engine)
    machine.ok("service", "adopt", "captions", "--vram-mb", "0")
    machine.ok("mode", "create", "rest", "--services", "captions,tts", "--asleep", "captions")
    machine.fault("tts", "slow-start", 200.0)
    process = machine.begin("switch", "rest")
    wait_until(lambda: machine.sql("SELECT 1 FROM handles WHERE service = 'tts'"), "tts to be started")
    wait_until(lambda: not inspected(engine, "captions")["State"]["Running"], "the container to be stopped")
    process.kill()
    machine.end(process)
    machine.clear()
    engine.docker("rm", "captions")
    theirs(machine, engine)  # as somebody who makes it anew would
    other = inspected(engine, "captions")["State"]
    done = machine.change("recover", "--rollback")
    assert machine.status()["open_run"] is None, done
    assert any(note.startswith("captions did not come back: ") for note in done.json["notes"]), done
    assert machine.states() == {}
    assert inspected(engine, "captions")["State"] == other


def test_what_is_not_adopted_and_where_it_answers(machine: Machine, engine: Dockerd) -> None:
    add(machine, "web")
    machine.change("service", "start", "web")
    own = f"gpumod-web.{(machine.home / 'home-id').read_text().strip()}"
    engine.docker("run", "-d", "--rm", "--name", "passing", HTTPD)
    engine.docker("run", "-d", "--name", "alone", HTTPD)
    engine.docker("run", "-d", "--name", "anew", "-p", "127.0.0.1::8000", HTTPD)
    port = machine.unused.pop()
    command = ("/bin/httpd", "-f", "-p", str(port), "-h", "/www")
    engine.docker("run", "-d", "--name", "open", "--network", "host", HTTPD, *command)
    wait_until(lambda: answers(port), "the container to answer")
    codes = {"passing": "removes-itself", own: "own-container", "alone": "which-port", "anew": "which-port"}
    codes |= {"nobody": "nothing-to-adopt", "../version": "nothing-to-adopt"}
    for name, code in codes.items():
        done = machine.quick("service", "adopt", name, "--container")
        assert (done.code, done.error["code"]) == (4 if code == "nothing-to-adopt" else 2, code), done
    pid = inspected(engine, own)["State"]["Pid"]
    assert machine.quick("service", "adopt", str(pid)).error["code"] in ("own-container", "adopted-already")
    taken = machine.ok("service", "adopt", "open", "--port", str(port), "--vram-mb", "0").json["service"]
    assert (taken["port"], taken["health_endpoint"]) == (port, "/health")
    (exposed,) = [c for c in machine.quick("doctor").json["checks"] if "listens on" in c["message"]]
    assert (exposed["name"], "let it publish its port at this machine alone" in exposed["hint"]) == (
        "service open",
        True,
    )
    machine.change("service", "stop", "web")


def test_a_stop_lasts_as_long_as_the_container_says_and_its_log_is_the_last_runs(
    machine: Machine, engine: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own signal is heard, and what it then does is waited for, whichever engine is in use by then."""
    script = "trap 'echo saving; sleep 2; echo saved; exit 0' USR1; echo begun; while true; do sleep 0.1; done"
    more = ("--stop-signal", "SIGUSR1", "--stop-timeout", "20")
    engine.docker("run", "-d", "--name", "slow", *more, PYTHON, "/bin/sh", "-c", script)
    port = str(machine.unused.pop())
    machine.ok("service", "adopt", "slow", "--port", port, "--vram-mb", "0")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/nobody.sock")
    assert machine.states() == {"slow": "starting"}, "nothing answers on its port"
    wait_until(lambda: machine.ok("service", "logs", "slow").json["lines"] == ["begun"], "its first line")
    machine.change("service", "stop", "slow")
    assert inspected(engine, "slow")["State"]["ExitCode"] == 0
    assert machine.ok("service", "logs", "slow").json["lines"] == ["begun", "saving", "saved"]
    engine.docker("start", "slow")
    wait_until(lambda: machine.ok("service", "logs", "slow").json["lines"] == ["begun"], "the log of its second run")


OLLAMA = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"/api/tags": {"models": [{"name": "m", "size": 700 << 20}]}, "/api/ps": {"models": []}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told.get(self.path, {"version": "0.12.0"})).encode())
place = os.environ.get("OLLAMA_HOST", ":11434").rpartition(":")[2]
http.server.ThreadingHTTPServer(("", int(place)), Handler).serve_forever()
"""


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_an_ollama_in_a_container_is_imported(machine: Machine, engine: Dockerd, tmp_path: Path, network: str) -> None:
    program, port = tmp_path / "ollama", str(machine.unused.pop())
    program.write_text(f"#!{sys.executable} -IS{OLLAMA}")
    program.chmod(0o755)
    here = {"bridge": ("-p", f"{port}:11434"), "host": ("--network", "host", "-e", f"OLLAMA_HOST=0.0.0.0:{port}")}
    words = ("--stop-timeout", "1", "-v", f"{program}:/bin/ollama:ro", *here[network], PYTHON, "/bin/ollama", "serve")
    engine.docker("run", "-d", "--name", "chat", *words)
    before = lasting(engine, "chat")
    wait_until(
        lambda: machine.quick("import", "ollama", "--port", port, "--dry-run").code == 0, "the container to answer"
    )
    (found,) = machine.ok("import", "ollama", "--port", port).json["rows"]
    adopted = found["service"]["adopted"]
    assert (found["action"], adopted["container"], adopted["name"]) == ("added", before["Id"], "chat")
    assert (found["service"]["driver"], found["service"]["port"]) == ("ollama", int(port))
    assert machine.states()["ollama"] == "running"
    machine.change("service", "stop", "ollama")
    machine.ok("service", "release", "ollama")
    assert lasting(engine, "chat") == before


def test_one_that_its_engine_starts_again_and_again_has_failed(
    machine: Machine, engine: Dockerd, tmp_path: Path
) -> None:
    fails = "sleep 0.3; echo 'no such model' >&2; exit 3"
    script = f"test -e /models/m || {{ {fails}; }}; exec /bin/httpd -f -p 8000 -h /www"
    port = str(machine.unused.pop())
    more = ("--restart", "always", "-v", f"{tmp_path}:/models:ro", "-p", f"127.0.0.1:{port}:8000", HTTPD)
    engine.docker("create", "--name", "loops", *more, "/bin/sh", "-c", script)
    machine.ok("service", "adopt", "loops", "--port", port, "--vram-mb", "0")
    began = time.monotonic()
    done = machine.quick("service", "start", "loops")
    assert (done.code, done.error["code"]) == (6, "died-while-starting"), done
    assert "no such model" in done.error["why"], done
    assert time.monotonic() - began < 60
    assert not inspected(engine, "loops")["State"]["Running"], "what did not start is stopped"

    engine.docker("start", "loops")

    def is_between_runs() -> bool:
        shown = row(machine, "loops")
        return shown["state"] == "unknown" and "its engine is about to restart it (" in shown["last_error"]

    wait_until(is_between_runs, "a look at it between two runs")
    wait_until(lambda: machine.ok("service", "logs", "loops").json["lines"] == ["no such model"], "the run that ended")
    machine.change("service", "stop", "loops")
    assert not inspected(engine, "loops")["State"]["Running"]

    assert inspected(engine, "loops")["RestartCount"] > 0
    (tmp_path / "m").touch()
    machine.change("service", "start", "loops")  # what became of it before counts for nothing
    assert machine.states() == {"loops": "running"}
