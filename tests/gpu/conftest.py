"""A machine with a real GPU, and a gpumod on it: what tests need, and what ends whatever a test has left."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from gpumod.adapters.nvml.probe import NvmlProbe
from gpumod.cli.main import root
from gpumod.domain.machine import GpuReading
from gpumod.domain.settings import Settings

HERE = Path(__file__).parent
NEAR_MB = 32
CONTEXT_MB = 600
"""More than a CUDA context takes by itself, about: it differs from card to card."""
PATIENCE_S = 60.0
TORCH_PYTHON = os.environ.get("GPUMOD_TEST_TORCH_PYTHON", sys.executable)
TELL_TORCH = (
    "import torch\nprint(torch.__version__, torch.version.cuda if torch.cuda.is_available() else 'without CUDA')"
)


@pytest.fixture(scope="session")
def libraries() -> None:
    """The driver's."""
    for library in ("libnvidia-ml.so.1", "libcuda.so.1"):
        try:
            ctypes.CDLL(library)
        except OSError as error:
            pytest.skip(f"no NVIDIA GPU here: {error}")


@pytest.fixture
def probe(libraries: None) -> NvmlProbe:
    found = NvmlProbe(Settings())
    if not found.read()[0]:
        pytest.skip("the NVIDIA driver tells of no GPU")
    return found


@pytest.fixture(scope="session")
def torch_python() -> str:
    """The interpreter whose torch sees a GPU: this one, or that of GPUMOD_TEST_TORCH_PYTHON."""
    told = subprocess.run([TORCH_PYTHON, "-c", TELL_TORCH], capture_output=True, text=True, timeout=100)
    if told.returncode:
        pytest.skip(f"{TORCH_PYTHON} has no torch (GPUMOD_TEST_TORCH_PYTHON names another): {told.stderr[-200:]}")
    if "without CUDA" in told.stdout:
        pytest.skip(f"the torch of {TORCH_PYTHON} sees no GPU: {told.stdout.strip()}")
    return TORCH_PYTHON


def card(probe: NvmlProbe) -> GpuReading:
    """The first GPU, which all of this uses."""
    return probe.read()[0][0]


def held_mb(probe: NvmlProbe, pid: int) -> int | None:
    """What the driver says that the process holds; None where it does not know it, or not how much."""
    told = [process.vram_mb for process in probe.read()[1] if process.pid == pid and process.vram_mb is not None]
    return sum(told) if told else None


def wait_until(look: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)


class Holder:
    """A foreign process with a CUDA context on the first GPU, which takes memory and gives it back when it is told."""

    def __init__(self, probe: NvmlProbe) -> None:
        env = {**os.environ, **probe.child_env([card(probe).index])}
        argv = [sys.executable, str(HERE / "cuda.py")]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.pid = self.process.pid

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self.hear("done")

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders(probe: NvmlProbe) -> Iterator[Callable[[], Holder]]:
    """Makes holders; they are ended when the test is, and their memory comes back."""
    before_mb = card(probe).used_mb
    with contextlib.ExitStack() as stack:

        def make() -> Holder:
            made = Holder(probe)
            stack.callback(made.end)
            made.hear("ready")
            return made

        yield make
    wait_until(lambda: abs(card(probe).used_mb - before_mb) <= NEAR_MB, "what strangers took to come back")


class Home:
    """A gpumod of one test on the real machine. Every process of its services has its folder in its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ok("init")
        for name, value in (("lock_dir", folder), ("supervisor", "process"), ("gpu_probe", "nvml")):
            self.ok("settings", "set", name, str(value))

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "gpumod", "--home", str(self.folder / "home"), "--json", *args]

    def gpumod(self, *args: str) -> tuple[int, Any]:
        """Exit status and document of the real program, as a process of its own."""
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def ok(self, *args: str) -> Any:
        """The document of the same program in this process, where a process of its own is not the point."""
        done = CliRunner().invoke(root, self.argv(*args)[3:])
        assert done.exit_code == 0, (args, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def switch(self, mode: str) -> None:
        code, told = self.gpumod("switch", mode)
        assert code == 0, told["error"]

    def app(self, name: str, mb: int, *words: str, python: str = sys.executable, before: str = "", **more: str) -> None:
        """Define a service that holds `mb` MiB beside its context, and the mode `with-NAME` of it alone.

        `words` are its arguments, `more` its further options.
        """
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        run = f"{before} {python} {HERE / 'app.py'} --port {{port}} --mb {mb} --of {self.folder}"
        options = {"command": " ".join([run.strip(), *words]), **more}
        keys = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        if "sleep_path" in more:
            keys += ["--sleep-mode", "http", "--asleep-mb", str(CONTEXT_MB)]
        fields = ("--driver", "fastapi", "--port", str(port), "--vram-mb", str(mb + CONTEXT_MB), "--gpus", "0", *keys)
        self.ok("service", "add", "--id", name, "--startup-timeout", str(PATIENCE_S), *fields)
        self.ok("mode", "create", f"with-{name}", "--services", name)

    def row(self, service: str) -> Any:
        """Its row of `gpumod status`."""
        return next(row for row in self.ok("status")["services"] if row["id"] == service)

    def health(self, service: str) -> Any:
        """What the service itself answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.row(service)['port']}/health", timeout=10) as reply:
            return json.loads(reply.read())

    def processes(self) -> list[psutil.Process]:
        """What of it is alive, supervisors' own processes too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                told = [*process.cmdline(), process.environ().get("GPUMOD_HOME", "")]
                if process.pid != os.getpid() and any(str(self.folder) in word for word in told):
                    found.append(process)
        return found

    def close(self, probe: NvmlProbe, before_mb: int) -> None:
        """Stop everything as a user would: that must leave no process and no memory. Then kill what is left."""
        try:
            self.switch("blank")
            wait_until(lambda: not self.processes(), "the last process to end")
            wait_until(lambda: card(probe).used_mb - before_mb <= 2 * NEAR_MB, "all memory to come back")
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def home(probe: NvmlProbe, tmp_path: Path) -> Iterator[Home]:
    before_mb = card(probe).used_mb
    made = Home(tmp_path)
    try:
        yield made
    finally:
        made.close(probe, before_mb)
