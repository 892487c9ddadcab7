"""Start a real vLLM as gpumod's driver would, and run a command beside it: python -m tests.vllm.serve VLLM COMMAND...

The command is told where it is by GPUMOD_TEST_VLLM_URL, the program by GPUMOD_TEST_VLLM, and a model by
GPUMOD_TEST_VLLM_MODEL.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from gpumod.api import Allocation, GpuShare, Launch, Service, Settings
from gpumod_vllm.driver import VllmDriver

READY_S = 600.0
ON_A_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def launch_of(program: str, model: str, port: int, **fields: object) -> Launch:
    """How the driver launches a small model, asleep at level 1 when it is told."""
    given = {
        "id": "tiny",
        "driver": "vllm",
        "port": port,
        "vram_mb": 1000,
        "model_path": model,
        "sleep_mode": "l1",
        "context_size": 2048,
        "unit_vars": {
            "vllm_bin": program,
            "max_num_seqs": 4,
            "enforce_eager": True,
            "dtype": "bfloat16",
            "kv_cache_memory_bytes": 256 * 2**20,  # on a CPU the utilization is one of host RAM
        },
    }
    service = Service.model_validate(given | fields)
    card = Allocation(gpus=(GpuShare(index=0, total_mb=10_000, budget_mb=10_000, vram_mb=1000),))
    return VllmDriver().launch(service, card, Settings())


def on(processors: Sequence[int], command: Sequence[str]) -> list[str]:
    return ["taskset", "--cpu-list", ",".join(map(str, processors)), *command]


def begin(launch: Launch, log: Path, processors: Sequence[int]) -> subprocess.Popen[bytes]:
    env = {**os.environ, **ON_A_CPU, **launch.env}
    words = on(processors, launch.argv)
    with log.open("wb") as file:
        return subprocess.Popen(words, env=env, stdout=file, stderr=file, cwd=log.parent, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """As a supervisor would: SIGTERM, and after a while the whole session."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_ready(process: subprocess.Popen[bytes], base: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"vLLM did not start (exit status {process.poll()}):\n{log.read_text()[-5000:]}")


def main(program: str, command: list[str]) -> int:
    # Its processes wait by yielding over and over, and some kernels (6.18) then let nobody else run for seconds.
    *served, asking = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="gpumod-vllm-") as folder:
        model = Path(folder, "tiny")
        python = Path(program).with_name("python")
        subprocess.run(
            [python, Path(__file__).with_name("tiny_model.py"), model], check=True, env={**os.environ, **ON_A_CPU}
        )
        port, log = free_port(), Path(folder, "log")
        base = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        process = begin(launch_of(program, str(model), port), log, served or [asking])
        try:
            wait_ready(process, base, log)
            print(f"vLLM is ready after {time.monotonic() - began:.0f} s on {base}", flush=True)
            told = {"GPUMOD_TEST_VLLM_URL": base, "GPUMOD_TEST_VLLM": program, "GPUMOD_TEST_VLLM_MODEL": str(model)}
            code = subprocess.run(on([asking], command), env={**os.environ, **told}).returncode
            if code:
                print(log.read_text()[-8000:])
        finally:
            end(process)
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
