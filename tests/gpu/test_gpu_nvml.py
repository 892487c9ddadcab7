"""A real GPU: memory that real CUDA processes take and give back, as NVML tells it and as a switch sees it."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from gpumod.domain.machine import GpuReading
from gpumod.domain.settings import Settings

pytestmark = pytest.mark.gpu_required

HERE = Path(__file__).parent
NEAR_MB = 32
TAKEN_MB = 512
SERVICE_MB = 2000


@pytest.fixture
def probe() -> NvmlProbe:
    for library in ("libnvidia-ml.so.1", "libcuda.so.1"):
        try:
            ctypes.CDLL(library)
        except OSError as error:
            pytest.skip(f"no NVIDIA GPU here: {error}")
    found = NvmlProbe(Settings())
    if not found.read()[0]:
        pytest.skip("the NVIDIA driver tells of no GPU")
    return found


@pytest.fixture
def holder(probe: NvmlProbe) -> Iterator[subprocess.Popen[str]]:
    """A process with a CUDA context on the first GPU."""
    env = {**os.environ, **probe.child_env([first(probe).index])}
    argv = [sys.executable, str(HERE / "cuda.py")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def first(probe: NvmlProbe) -> GpuReading:
    return probe.read()[0][0]


def held_mb(probe: NvmlProbe, pid: int) -> int:
    """What the process holds as told; where the driver tells no processes, what the whole card holds."""
    gpus, processes = probe.read()
    mine = [p.vram_mb for p in processes if p.pid == pid and p.vram_mb is not None]
    return sum(mine) if mine else gpus[0].used_mb


def tell(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def wait_until(look: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)


def test_what_is_there(probe: NvmlProbe) -> None:
    gpus, _ = probe.read()
    for gpu in gpus:
        assert gpu.fault is None
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.name
        assert gpu.architecture
        assert gpu.total_mb == gpu.used_mb + gpu.free_mb + gpu.reserved_mb
    assert "driver" in {finding.name for finding in probe.findings()}


def test_memory_is_seen_to_come_and_go(probe: NvmlProbe, holder: subprocess.Popen[str]) -> None:
    wait_until(lambda: held_mb(probe, holder.pid) > 0, "the context to show")
    before_mb = held_mb(probe, holder.pid)
    tell(holder, f"take {TAKEN_MB}")
    wait_until(lambda: abs(held_mb(probe, holder.pid) - before_mb - TAKEN_MB) <= NEAR_MB, f"{TAKEN_MB} MiB to show")
    tell(holder, "give")
    wait_until(lambda: abs(held_mb(probe, holder.pid) - before_mb) <= NEAR_MB, "them to be given back")


def gpumod(home: Path, *args: str) -> tuple[int, Any]:
    argv = [sys.executable, "-m", "gpumod", "--home", str(home), "--json", *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    return done.returncode, json.loads(done.stdout)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_service_in_a_real_switch(probe: NvmlProbe, tmp_path: Path) -> None:
    home, before_mb = tmp_path / "home", first(probe).used_mb
    assert gpumod(home, "init", "--yes")[0] == 0
    assert gpumod(home, "settings", "set", "lock_dir", str(tmp_path))[0] == 0
    app = f"command={sys.executable} {HERE / 'app.py'} --port {{port}}"
    for name, more in (("real", ""), ("fallen", " --cpu")):
        port, mb = str(free_port()), str(SERVICE_MB)
        fields = ("--driver", "fastapi", "--port", port, "--vram-mb", mb, "--gpus", "0", "--set", app + more)
        code, told = gpumod(home, "service", "add", "--id", name, *fields)
        assert code == 0, told
        assert gpumod(home, "mode", "create", f"with-{name}", "--services", name)[0] == 0
    try:
        code, told = gpumod(home, "switch", "with-real")
        assert code == 0, told
        _, status = gpumod(home, "status")
        (row,) = [row for row in status["services"] if row["id"] == "real"]
        assert row["state"] == "running"
        assert abs(row["vram_mb"] - SERVICE_MB) < SERVICE_MB / 2  # a context's own size differs from card to card
        assert first(probe).used_mb - before_mb > SERVICE_MB / 2
        code, told = gpumod(home, "switch", "with-fallen")
        assert (code, told["error"]["code"]) == (6, "cpu-fallback"), told
        assert gpumod(home, "service", "status", "real")[1]["state"] == "running"
    finally:
        code, told = gpumod(home, "switch", "blank")
    assert code == 0, told
    wait_until(lambda: first(probe).used_mb - before_mb <= 2 * NEAR_MB, "the service's memory to come back")
