"""A machine that loses its power and is booted again: `gpumod watch` brings the mode back, by a plan."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.reboot, pytest.mark.timeout(300)]

BOX = Path(__file__).with_name("box")
GPUMOD = [sys.executable, "-m", "gpumod", "--json"]
FIRST = """
import subprocess, sys
from pathlib import Path
from gpumod_sim.machine import Machine
scope, mode, before, *edit = sys.argv[1:]
def gpumod(*words):
    done = subprocess.run([sys.executable, "-m", "gpumod", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout
gpumod("init", "--yes", "--sim", "RTX 4090:24564")
Machine(str(Path.home() / ".local/share/gpumod/sim")).configure(speed=200.0, lag_s=0.05, ram_mb=65536)
for key, value in {"supervisor": f"systemd-{scope}", "boot_mode": mode, "watch_interval_s": "1"}.items():
    gpumod("settings", "set", key, value)
gpumod("watch", "--install", "--manager", scope)
gpumod("switch", before)
if edit:
    gpumod("service", "edit", *edit)
print(gpumod("status", "--json"))
"""
AGAIN = """
import json, subprocess, sys, time
mode = sys.argv[1]
def gpumod(*words):
    return subprocess.run([sys.executable, "-m", "gpumod", "--json", *words], capture_output=True, text=True)
end = time.monotonic() + 120
while (done := gpumod("mode", "verify", mode)).returncode and time.monotonic() < end:
    time.sleep(0.5)
run = gpumod("history", "show")
watcher = subprocess.run(["journalctl", "-o", "cat", "-n", "50", "--no-pager"], capture_output=True, text=True).stdout
print(json.dumps({"verified": done.returncode, "run": json.loads(run.stdout), "journal": watcher,
                  "status": json.loads(gpumod("status").stdout)}))
"""


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`booted(program, *arguments)`: boot the machine, run a Python program on it, take its power; what it printed."""
    disk = Path(tempfile.mkdtemp(prefix="gpumod-disk-", dir="/var/tmp"))  # /tmp is the machine's own
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)

    def boot(program: str, *arguments: str) -> Any:
        words: Sequence[str] = [str(BOX), sys.executable, "-c", program, *arguments]
        env = {k: v for k, v in os.environ.items() if not k.startswith("GPUMOD_")} | {"BOX_DISK": str(disk)}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    yield boot
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    disk.rmdir()


def test_the_boot_mode_comes_back_by_a_plan(booted: Callable[..., Any]) -> None:
    """Dependencies first, and of those that are started exclusively (vLLM) one at a time."""
    # without this `embedding` is started first
    before = booted(FIRST, "system", "rag", "code", "embedding", "--depends-on", "embedding-code")
    assert before["mode"] == "code"
    after = booted(AGAIN, "rag")
    assert after["verified"] == 0, after
    status, run = after["status"], after["run"]["run"]
    assert (status["mode"], status["open_run"]) == ("rag", None)
    assert run["command"] == "watch: switch rag"
    starts = [s for s in run["steps"] if s["step"]["action"] == "start"]
    spans_of = {s["step"]["service"]: (s["started_at"], s["started_at"] + s["seconds"]) for s in starts}
    for service, needed in (("embedding", "embedding-code"), ("chat", "llama-router")):
        assert spans_of[needed][1] <= spans_of[service][0], (service, spans_of)
    rows = {row["id"]: row for row in status["services"]}
    vllm = [s for s in starts if rows[s["step"]["service"]]["driver"] == "vllm"]
    assert len(vllm) > 1
    spans = sorted((s["started_at"], s["started_at"] + s["seconds"]) for s in vllm)
    assert all(ends <= begins + 0.01 for (_, ends), (begins, _) in itertools.pairwise(spans)), spans


def test_the_last_mode_comes_back_under_the_users_manager(booted: Callable[..., Any]) -> None:
    booted(FIRST, "user", "@last", "speak")
    after = booted(AGAIN, "speak")
    assert after["verified"] == 0, after
    assert after["run"]["run"]["command"] == "watch: switch speak"
