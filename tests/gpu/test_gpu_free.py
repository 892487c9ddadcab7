"""`gpumod free` on a real card: a command gets the room it asked for, and what was put away comes back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import CONTEXT_MB, HERE, PATIENCE_S, Home, card

pytestmark = pytest.mark.gpu_required

SERVICE_MB = 3000


def test_a_command_gets_its_room_and_the_service_is_back_afterwards(probe: NvmlProbe, home: Home) -> None:
    home.app("real", SERVICE_MB)
    home.switch("with-real")
    started = home.row("real")
    wanted_mb = card(probe).free_mb + SERVICE_MB // 2  # more than there is beside the service
    takes_mb = wanted_mb - 2 * CONTEXT_MB
    assert takes_mb > 0
    command = (sys.executable, str(HERE / "cuda.py"), str(takes_mb))
    done = subprocess.run(home.argv("free", str(wanted_mb), "--", *command), capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done
    again = home.row("real")
    assert again["state"] == "running"
    assert abs(again["vram_mb"] - started["vram_mb"]) <= 2 * CONTEXT_MB
    assert f"free {wanted_mb}" in {run["command"] for run in home.ok("history", "list")["runs"]}
    assert home.ok("status")["leases"] == []


def test_a_command_that_fails_tells_its_own_exit_and_all_is_back(probe: NvmlProbe, home: Home) -> None:
    home.app("real", SERVICE_MB)
    home.switch("with-real")
    wanted_mb = card(probe).free_mb + SERVICE_MB // 2
    too_much_mb = card(probe).total_mb * 2
    command = (sys.executable, str(HERE / "cuda.py"), str(too_much_mb))
    done = subprocess.run(home.argv("free", str(wanted_mb), "--", *command), capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 1, done
    assert b"cuMemAlloc_v2 failed" in done.stderr
    assert home.row("real")["state"] == "running"
