"""A simulated machine of its own for every test, driven by the real program, with the ledger as the judge."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from gpumod.cli.main import root
from gpumod_sim import faults
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine as SimMachine
from tests.machine.ports import Ports, is_free
from tests.nvml.driver import Driver, driver_for

PROBE = os.environ.get("GPUMOD_TEST_PROBE", "sim")
SUPERVISORS = os.environ.get("GPUMOD_TEST_SUPERVISORS", "").split()
"""Which keep the services, where that is not the default: one for each test, in turn by the test's name."""
CARD = "RTX 4090:24564"
SPEED = 500.0
LAG_S = 0.05
RELEASE_TIMEOUT_S = 1.5
PATIENCE_S = 30.0
ASKED = {
    "embedding-code": ("/v1/embeddings", {"input": "x"}, "data"),
    "embedding": ("/v1/embeddings", {"input": "x"}, "data"),
    "reranker": ("/v1/rerank", {"query": "x", "documents": ["a", "b"]}, "results"),
    "reranker-base": ("/v1/rerank", {"query": "x", "documents": ["a", "b"]}, "results"),
    "asr": ("/v1/audio/transcriptions", {}, "text"),
    "tts": ("/v1/audio/speech", {"input": "x"}, None),
}
COMPLETION = ("/v1/completions", {"prompt": "def f(", "max_tokens": 4}, "choices")


@dataclass(frozen=True)
class Outcome:
    """How a run of the program ended, and the document that it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        return self.json.get("error") or {}

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.stdout[:4000]}\n{self.stderr[-3000:]}"


@dataclass
class Window:
    """One change: when it ran, and what its plan said that each GPU would hold at most."""

    began: float
    ended: float
    peak_mb: Mapping[str, int]
    command: str


@dataclass
class Watch:
    """`gpumod sim watch-ledger` at work."""

    file: Path
    process: subprocess.Popen[bytes]
    windows: list[Window] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        """End it and return what it wrote."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def check(self) -> None:
        """At every moment of every change, what was in use is within what its plan said."""
        events = self.events()
        assert len(events) > 1
        for window in self.windows:
            before = [event for event in events if event["at"] <= window.began][-1:]
            during = [event for event in events if window.began < event["at"] <= window.ended]
            for event in [*before, *during]:
                for gpu, used_mb in event["used_mb"].items():
                    assert used_mb <= window.peak_mb[gpu], (window, event)


class Machine:
    """One home on a simulated machine. `gpumod` runs the program, `quick` the same in this process."""

    def __init__(
        self,
        folder: Path,
        cards: str,
        ports: Sequence[int],
        sim: Path | None = None,
        driver: Driver | None = None,
        supervisor: str = "",
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.ports: dict[str, int] = {}
        self.watches: list[Watch] = []
        self.started: list[subprocess.Popen[str]] = []
        join = ("--sim-dir", str(sim)) if sim else ()
        done = self.quick("init", "--yes", *(("--sim", cards) if cards else ()), *join)
        assert done.code == 0, done
        self.sim = SimMachine(str(sim or self.home / "sim"))
        self.sim.configure(speed=SPEED, lag_s=LAG_S, ram_mb=65_536)
        self.ok("settings", "set", "release_timeout_s", str(RELEASE_TIMEOUT_S))
        if supervisor:
            self.ok("settings", "set", "supervisor", supervisor)
        if driver is not None:
            driver.attach(self)
        self.unused = list(ports)
        self.move_ports()

    def move_ports(self) -> None:
        """Give every service that listens a port of this test's block, all at once in the database."""
        for (service,) in self.sql("SELECT id FROM services WHERE port IS NOT NULL ORDER BY id"):
            self.ports[service] = self.unused.pop()
        with contextlib.closing(sqlite3.connect(self.home / "gpumod.db")) as connection, connection:
            rows = [(port, service) for service, port in self.ports.items()]
            connection.executemany("UPDATE services SET port = ? WHERE id = ?", rows)

    # --- the program ------------------------------------------------------------------------------------------------

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "gpumod", "--home", str(self.home), "--json", *args]

    def gpumod(self, *args: str) -> Outcome:
        """Run the real program as a process."""
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=PATIENCE_S * 2)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def begin(self, *args: str, argv: Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
        """Start the real program (or `argv`) and go on; the teardown ends what is left of it."""
        with self.said(len(self.started)).open("w") as said:
            pipes = {"stdout": subprocess.PIPE, "stderr": said, "text": True}
            process: subprocess.Popen[str] = subprocess.Popen(argv or self.argv(*args), **(pipes | options))
        self.started.append(process)
        return process

    def said(self, number: int) -> Path:
        """What the program that was started as this one wrote to stderr."""
        return self.folder / f"stderr-{number}"

    def end(self, process: subprocess.Popen[str]) -> Outcome:
        stdout, _ = process.communicate(timeout=PATIENCE_S * 2)
        return Outcome(process.returncode, stdout or "", self.said(self.started.index(process)).read_text())

    def quick(self, *args: str, stdin: str | None = None) -> Outcome:
        """The same program in this process, where a process of its own is not the point."""
        done = CliRunner().invoke(root, ["--home", str(self.home), "--json", *args], input=stdin)
        return Outcome(done.exit_code, done.stdout, done.stderr)

    def ok(self, *args: str) -> Outcome:
        done = self.quick(*args)
        assert done.code == 0, done
        return done

    def change(self, *args: str, code: int = 0, watch: Watch | None = None) -> Outcome:
        """A change in this process that must end with `code`; `watch` checks the ledger against its plan."""
        began = time.time()
        done = self.quick(*args)
        assert done.code == code, (args, str(done))
        if watch is not None:
            peaks = {str(gpu["index"]): gpu["peak_mb"] for gpu in done.json["plan"]["gpus"]}
            watch.windows.append(Window(began, time.time(), peaks, " ".join(args)))
        return done

    # --- what is ----------------------------------------------------------------------------------------------------

    def status(self) -> Any:
        return self.ok("status").json

    def states(self) -> dict[str, str]:
        """State by id of the services that are not stopped."""
        return {row["id"]: row["state"] for row in self.status()["services"] if row["state"] != "stopped"}

    def held(self) -> dict[str, int]:
        """MiB by service in the ledger, over all GPUs."""
        total: dict[str, int] = {}
        for row in self.allocations():
            total[row["service"]] = total.get(row["service"], 0) + row["mb"]
        return total

    def allocations(self) -> list[Any]:
        rows: list[Any] = Ledger(self.sim).public()["allocations"]
        return rows

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the database as it is, without gpumod."""
        connection = sqlite3.connect(f"file:{self.home / 'gpumod.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def whole(self, mode: str) -> None:
        """The mode is whole by gpumod's word, and supervisor, database and ledger agree."""
        verified = self.quick("mode", "verify", mode)
        assert verified.code == 0, verified
        status = self.status()
        assert status["open_run"] is None
        assert status["mode"] == mode
        self.agrees()

    def agrees(self) -> None:
        """Handles, processes and ledger tell the same: nobody is orphaned, nobody is remembered who is gone."""
        up = {row["id"] for row in self.status()["services"] if row["state"] != "stopped"}
        handles = {row[0] for row in self.sql("SELECT service FROM handles")}
        assert handles == up
        holders = {row["service"] for row in self.allocations() if row["pid"]}
        assert holders - {row for row in holders if row.startswith("foreign:")} <= up
        living = {service_of(pid) for pid in self.processes()} - {None}
        assert living <= up, living

    def nothing_left(self) -> None:
        """No process, no allocation, no handle, no port in use."""
        assert self.allocations() == []
        assert self.processes() == []
        assert self.sql("SELECT service FROM handles") == []
        assert [port for port in self.ports.values() if not is_free(port)] == []

    def processes(self) -> list[int]:
        """Living processes that belong to this test's folder, other than the programs that the test started."""
        mine = os.fsencode(self.folder)
        known = {os.getpid(), *(process.pid for process in self.started), *(w.process.pid for w in self.watches)}
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                told = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
                if mine in told and pid not in known:
                    found.append(pid)
        return found

    def ask(self, service: str) -> None:
        """The service really answers a request of its kind."""
        path, body, key = ASKED.get(service, COMPLETION)
        row = next(row for row in self.status()["services"] if row["id"] == service)
        base = f"http://127.0.0.1:{row['port']}"
        model = service
        if path.startswith("/v1/") and service not in ("chat", "asr", "tts"):
            model = json.loads(fetch(f"{base}/v1/models"))["data"][0]["id"]
        text = fetch(f"{base}{path}", {"model": model, **body})
        assert key is None or json.loads(text)[key], text

    # --- what the machine is told -----------------------------------------------------------------------------------

    def fault(self, service: str, kind: str, value: float | None = None) -> None:
        faults.put(self.sim, service, kind, value)

    def clear(self, service: str | None = None) -> None:
        faults.clear(self.sim, service)
        Ledger(self.sim).forget_leaks(service)

    def watch(self) -> Watch:
        """Start `gpumod sim watch-ledger`; returns when it watches."""
        file = self.folder / f"changes-{len(self.watches)}.jsonl"
        argv = self.argv("sim", "watch-ledger", str(file))
        watch = Watch(file, subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        self.watches.append(watch)
        wait_until(lambda: file.exists() and file.stat().st_size > 0, "the watcher to begin")
        return watch

    def close(self) -> None:
        """End everything the way a user would; fail if that leaves anything, and kill it."""
        for process in [*self.started, *(watch.process for watch in self.watches)]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        try:
            self.clear()
            self.quick("sim", "foreign", "--stop")
            if self.status()["open_run"]:
                self.quick("recover", "--rollback", "--force")
            done = self.quick("switch", "blank")
            assert done.code == 0, done
            wait_until(lambda: not self.processes(), "the last process to end")
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def service_of(pid: int) -> str | None:
    """The service that a process says it is."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"GPUMOD_SERVICE="):
                return entry.partition(b"=")[2].decode()
    return None


def fetch(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        text: str = reply.read().decode()
        return text


def wait_until(look: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """What `look` gives, soon after it gives something. A look that costs much is taken less often."""
    begin = looked = time.monotonic()
    while not (found := look()):
        now = time.monotonic()
        assert now < begin + timeout_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(max(0.002, 3 * (now - looked)))
        looked = time.monotonic()
    return found


MakeMachine = Callable[..., Machine]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver | None]:
    """What gpumod reads the GPUs from, where that is not the ledger itself."""
    with driver_for(PROBE, tmp_path / "driver", monkeypatch) as found:
        yield found


@pytest.fixture
def make_machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver | None
) -> Iterator[MakeMachine]:
    """Makes machines of given cards. `beside` another one: a second home on that one's machine."""
    for name in [name for name in os.environ if name.startswith("GPUMOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    made: list[Machine] = []
    blocks: list[Ports] = []
    by_name = zlib.crc32(request.node.name.encode())
    supervisor = SUPERVISORS[by_name % len(SUPERVISORS)] if SUPERVISORS else ""

    def make(cards: str = CARD, beside: Machine | None = None) -> Machine:
        blocks.append(Ports())
        folder = tmp_path / f"m{len(made)}"
        sim = Path(beside.sim.folder) if beside else None
        made.append(Machine(folder, "" if beside else cards, blocks[-1].numbers, sim, driver, supervisor))
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.close)
        for machine in made:
            stack.callback(machine.close)


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    """One card of 24564 MiB, the presets on ports of their own."""
    return make_machine()


@pytest.fixture
def until() -> Callable[..., Any]:
    """`until(look, what)`: what `look` gives, as soon as it gives something."""
    return wait_until
