"""Services with real GPU memory in real switches: arrival, sleep, release, fallback to the CPU, and strangers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import CONTEXT_MB, NEAR_MB, PATIENCE_S, Holder, Home, card, wait_until

pytestmark = pytest.mark.gpu_required

SERVICE_MB = 2000
UNSEEN = "env CUDA_VISIBLE_DEVICES="
"""Before a command: it finds no GPU, like a program whose driver was updated under it."""


def test_a_service_comes_is_seen_and_goes(probe: NvmlProbe, home: Home) -> None:
    home.app("real", SERVICE_MB)
    before_mb = card(probe).used_mb
    home.switch("with-real")
    row = home.row("real")
    assert row["state"] == "running"
    assert SERVICE_MB <= row["vram_mb"] <= SERVICE_MB + 2 * CONTEXT_MB
    assert card(probe).used_mb - before_mb >= SERVICE_MB
    home.switch("blank")
    wait_until(lambda: card(probe).used_mb - before_mb <= NEAR_MB, "its memory to come back")


def test_a_service_with_torch_comes_sleeps_wakes_and_goes(probe: NvmlProbe, home: Home, torch_python: str) -> None:
    paths = {"sleep_path": "/sleep", "wake_path": "/wake"}
    home.app("torch", SERVICE_MB, "--torch", python=torch_python, **paths)
    before_mb = card(probe).used_mb
    home.switch("with-torch")
    assert home.health("torch") == {"device": "cuda", "sleeping": False}
    awake = home.row("torch")
    assert awake["state"] == "running"
    assert SERVICE_MB <= awake["vram_mb"] <= SERVICE_MB + 2 * CONTEXT_MB
    home.ok("service", "sleep", "torch")
    asleep = home.row("torch")
    assert asleep["state"] == "sleeping"
    assert abs(awake["vram_mb"] - asleep["vram_mb"] - SERVICE_MB) <= NEAR_MB
    home.ok("service", "wake", "torch")
    assert abs(home.row("torch")["vram_mb"] - awake["vram_mb"]) <= NEAR_MB
    home.switch("blank")
    wait_until(lambda: card(probe).used_mb - before_mb <= NEAR_MB, "its memory to come back")


def test_one_that_fell_back_to_the_cpu_is_recognised(home: Home) -> None:
    home.app("real", SERVICE_MB)
    home.app("fallen", SERVICE_MB, before=UNSEEN)
    falls_back(home)


def test_torch_that_fell_back_to_the_cpu_is_recognised(home: Home, torch_python: str) -> None:
    home.app("real", SERVICE_MB)
    home.app("fallen", SERVICE_MB, "--torch", python=torch_python, before=UNSEEN)
    falls_back(home)


def falls_back(home: Home) -> None:
    """A switch from `real` to `fallen`, which answers healthy: it is refused its place, and `real` is back."""
    home.switch("with-real")
    code, told = home.gpumod("switch", "with-fallen")
    assert (code, told["error"]["code"]) == (6, "cpu-fallback"), told
    assert "fallen" in told["error"]["message"]
    assert home.ok("status")["mode"] == "with-real"
    assert home.row("fallen")["state"] == "stopped"
    assert home.row("real")["state"] == "running"
    assert home.row("real")["vram_mb"] >= SERVICE_MB
    assert home.health("real")["device"] == "cuda"


def test_memory_that_a_stranger_takes_between_plan_and_start_is_named(
    probe: NvmlProbe, home: Home, holders: Callable[[], Holder], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    free_mb = card(probe).free_mb
    home.app("early", SERVICE_MB, "--gate", str(gate))
    home.app("late", free_mb // 2)  # it never starts
    home.ok("mode", "create", "both", "--services", "early,late", "--start-order", "early=0", "--start-order", "late=1")
    home.ok("settings", "set", "release_timeout_s", "2")
    stranger = holders()
    with subprocess.Popen(home.argv("switch", "both"), stdout=subprocess.PIPE, text=True) as switch:
        try:
            wait_until(lambda: card(probe).free_mb <= free_mb - SERVICE_MB, "the first service to start", PATIENCE_S)
            stranger.tell(f"take {free_mb // 2}")
            gate.touch()
            told = json.loads(switch.communicate(timeout=PATIENCE_S)[0])
        finally:
            switch.kill()
    error = told["error"]
    assert (switch.returncode, error["code"]) == (6, "memory-taken"), told
    assert "late" in error["message"]
    assert {row["state"] for row in home.ok("status")["services"]} == {"stopped"}
    if any(process.pid == stranger.pid for process in probe.read()[1]):  # not every driver names processes
        assert f"(pid {stranger.pid})" in error["why"]
        assert stranger.pid in {process["pid"] for process in home.ok("status")["foreign"]}
    code, refused = home.gpumod("switch", "both")  # now it is known before anything starts
    assert code == 3, refused
    assert refused["plan"]["gpus"][0]["foreign_mb"] >= free_mb // 2
