"""A simulated machine of its own for every test, its programs as real processes, and HTTP to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpumod_sim.create import create_machine
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine

SPEED = 300.0
LAG_S = 0.1
REAL_LLAMA = os.environ.get("GPUMOD_TEST_LLAMA_SERVER")
"""A real llama-server that takes the stand-in's place in its contract; then GPUMOD_TEST_GGUF names a small model."""
MODEL = os.environ.get("GPUMOD_TEST_GGUF", "/models/tiny.gguf")
# One thread: several of a real one wait for one another, for very long where the processors are busy.
PRESETS = f"""version = 1

[one]
; gpumod: vram_mb=5000
model = {MODEL}
c = 1024
threads = 1
stop-timeout = 1

[two]
; gpumod: vram_mb=7000
model = {MODEL}
ctx-size = 1024
threads = 1
alias = deux

[broken]
model = /nowhere/missing.gguf
"""


@dataclass
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(base: str, method: str, path: str, body: Any = None, timeout_s: float = 10.0, **headers: str) -> Answer:
    """One request. Raises OSError or http.client.HTTPException where there is no answer."""
    host, _, port = base.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers} if data else headers)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


def wait_for(what: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Poll until `what` is true; an OSError counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            if value := what():
                return value
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


class Box:
    """A machine, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.settings = create_machine(folder, [("RTX 4090", 24564), ("RTX 3090", 24576)])
        self.machine = Machine(str(folder))
        self.machine.configure(speed=SPEED, lag_s=LAG_S, living_lag_s=0)
        self.ledger = Ledger(self.machine)
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, program: str, *args: str, service: str = "svc", vram_mb: int | None = None, **env: str) -> Any:
        """A program of the machine, on GPU 0 unless CUDA_VISIBLE_DEVICES says otherwise; its log is read by `log`."""
        environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "0", "GPUMOD_SERVICE": service, **env}
        if vram_mb is not None:
            environment["GPUMOD_VRAM_MB"] = str(vram_mb)
        log = (self.folder / f"{service}.log").open("w")
        with log:
            process = subprocess.Popen(
                [str(self.folder / "bin" / program), *args], env=environment, stdout=log, stderr=log, text=True
            )
        self.started.append(process)
        return process

    def log(self, service: str = "svc") -> str:
        return (self.folder / f"{service}.log").read_text()

    def held(self, gpu: int | None = 0) -> dict[str, int]:
        """Service -> MiB that living processes hold on a GPU (None: host RAM)."""
        found: dict[str, int] = {}
        for row in self.ledger.rows():
            if row["gpu"] == gpu and row["pid"] and row["died"] is None:
                found[row["service"]] = found.get(row["service"], 0) + row["mb"]
        return found

    def used(self, gpu: int = 0) -> int:
        return self.ledger.used_mb(gpu)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()
        for row in self.ledger.rows():  # workers in sessions of their own, routers' children
            if row["pid"] not in (None, os.getpid()) and row["died"] is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], signal.SIGKILL)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "sim")
    yield made
    made.close()


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Ports below those that connections go out from; an abstract socket keeps each for its test, the kernel's lock."""
    locks: list[socket.socket] = []

    def find() -> int:
        while True:
            port = random.randrange(31_300, 32_700)
            lock = socket.socket(socket.AF_UNIX)
            locks.append(lock)
            with contextlib.suppress(OSError), socket.socket() as sock:
                lock.bind(f"\0gpumod-test-port-{port}")
                sock.bind(("127.0.0.1", port))
                return port

    yield find
    for lock in locks:
        lock.close()


@pytest.fixture(name="http")
def http_client() -> Callable[..., Answer]:
    return ask


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def vllm(box: Box, free_port: Callable[[], int]) -> Callable[..., str]:
    """Start a vLLM stand-in and return its base URL once it is healthy."""

    def start(*args: str, wait: bool = True, **more: Any) -> str:
        base = f"http://127.0.0.1:{free_port()}"
        more = {"VLLM_SERVER_DEV_MODE": "1", **more}
        argv: Sequence[str] = (
            "serve",
            "Qwen/Qwen3-0.6B",
            "--host",
            "127.0.0.1",
            "--port",
            base.rsplit(":", 1)[1],
            *args,
        )
        process = box.start("vllm", *argv, **more)
        if wait:
            wait_for(lambda: _healthy(base, process))
        return base

    return start


@pytest.fixture
def app(box: Box, free_port: Callable[[], int]) -> Callable[..., str]:
    """Start the stand-in of one's own service and return its base URL once it is healthy."""

    def start(*args: str, wait: bool = True, **more: Any) -> str:
        base = f"http://127.0.0.1:{free_port()}"
        process = box.start("uvicorn", "app:app", "--port", base.rsplit(":", 1)[1], *args, **more)
        if wait:
            wait_for(lambda: _healthy(base, process))
        return base

    return start


@pytest.fixture
def llama(box: Box, free_port: Callable[[], int]) -> Callable[..., str]:
    """Start a llama-server stand-in and return its base URL once it is healthy."""

    def start(*args: str, wait: bool = True, **more: Any) -> str:
        base = f"http://127.0.0.1:{free_port()}"
        process = box.start("llama-server", "--port", base.rsplit(":", 1)[1], *args, **more)
        if wait:
            wait_for(lambda: _healthy(base, process))
        return base

    return start


def _healthy(base: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, f"it ended with {process.returncode}"
    return ask(base, "GET", "/health").status == 200


# --- the contract of llama-server ------------------------------------------------------------------------------------


@pytest.fixture
def server(box: Box, free_port: Callable[[], int]) -> Iterator[Callable[..., str]]:
    """Start a llama-server with arguments; its base URL, once it answers. The process is `box.started[-1]`."""

    def start(*args: str, ready: bool = True, service: str = "svc", **env: str) -> str:
        words = ("--host", "127.0.0.1", "--port", str(free_port()), *args)
        if REAL_LLAMA:
            with (box.folder / f"{service}.log").open("w") as log:
                environ = {**os.environ, **env}
                box.started.append(subprocess.Popen([REAL_LLAMA, *words], stdout=log, stderr=log, env=environ))
        else:
            box.start("llama-server", *words, service=service, **env)
        base = f"http://127.0.0.1:{words[3]}"
        if ready:
            wait_for(lambda: _healthy(base, box.started[-1]))
        return base

    yield start
    for process in box.started:
        for pid in children_of(process) if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a real one may outlive a router that is killed


def children_of(process: subprocess.Popen[str]) -> list[int]:
    threads = Path(f"/proc/{process.pid}/task").iterdir()  # the real router starts them from threads of its own
    return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


@pytest.fixture
def children(box: Box) -> Callable[[], list[int]]:
    """The children of the server that was started last."""
    return lambda: children_of(box.started[-1])


@pytest.fixture
def model_file() -> str:
    return MODEL


@pytest.fixture
def many_tokens() -> int:
    """So many that a completion of them is still under way when one looks."""
    return 900 if REAL_LLAMA else 200_000


@pytest.fixture
def some_tokens() -> int:
    """So many that a completion of them takes about half a second."""
    return 900 if REAL_LLAMA else 10_000


@pytest.fixture
def halted(status: Callable[[str, str], Any], children: Callable[[], list[int]]) -> Callable[[str, str], int]:
    """Let a router load a model, and stop the child while it loads; its pid. SIGCONT lets it go on."""

    def load(base: str, name: str) -> int:
        for _ in range(20):
            assert ask(base, "POST", "/models/load", {"model": name}).json == {"success": True}
            (child,) = wait_for(children)
            os.kill(child, signal.SIGSTOP)
            if status(base, name)["value"] == "loading":
                return child
            os.kill(child, signal.SIGCONT)  # it was loaded already
            ask(base, "POST", "/models/unload", {"model": name})
            wait_for(lambda: status(base, name)["value"] == "unloaded")
        raise AssertionError("it is loaded before it can be stopped")

    return load


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    path = tmp_path / "router.ini"
    path.write_text(PRESETS)
    return path


@pytest.fixture
def router(server: Callable[..., str], presets: Path) -> str:
    return server("--models-preset", str(presets))


@pytest.fixture
def status() -> Callable[[str, str], Any]:
    """What a router says of one of its models."""
    return lambda base, name: next(m["status"] for m in ask(base, "GET", "/models").json["data"] if m["id"] == name)


@pytest.fixture
def load(status: Callable[[str, str], Any]) -> Callable[[str, str], None]:
    def loaded(base: str, name: str) -> None:
        assert ask(base, "POST", "/models/load", {"model": name}).json == {"success": True}
        wait_for(lambda: status(base, name)["value"] == "loaded")

    return loaded


@pytest.fixture
def complete() -> Callable[..., Answer]:
    """One chat completion of so many tokens."""

    def answer(base: str, model: str, tokens: int = 2, query: str = "", **more: Any) -> Answer:
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True}
        return ask(base, "POST", f"/v1/chat/completions{query}", body, **more)

    return answer
