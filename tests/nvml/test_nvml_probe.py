"""The probe over the real binding: totals, processes, old drivers, partitioned cards, and everything that can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nvml.driver import build

pytestmark = pytest.mark.nvml

CARD = "gpu 0 24564 364 {used} 8 GPU-one NVIDIA GeForce RTX 4090"
READ = """
import json, sys, time
import pynvml
from gpumod.adapters.nvml.probe import NvmlProbe
from gpumod.domain.errors import GpumodError
from gpumod.domain.settings import Settings

probe = NvmlProbe(Settings(), timeout_s=float(sys.argv[1]))


def numbered(gpu):
    try:
        return probe.numbered_env([gpu])
    except GpumodError as error:
        return error.info.model_dump()


for line in sys.stdin:
    if line == "anew\\n":
        probe = None
        try:
            pynvml.nvmlDeviceGetCount()
            print("true", flush=True)
        except pynvml.NVMLError_Uninitialized:
            print("false", flush=True)
        probe = NvmlProbe(Settings(), timeout_s=float(sys.argv[1]))
        continue
    try:
        gpus, processes = probe.read()
        told = [finding.model_dump() for finding in probe.findings()]
        env = {gpu.index: dict(probe.child_env([gpu.index])) for gpu in gpus}
        numbers = {gpu.index: numbered(gpu.index) for gpu in gpus}
        answer = {"gpus": [g.model_dump(mode="json") for g in gpus], "findings": told, "env": env, "numbers": numbers}
        answer["processes"] = [p.model_dump() for p in processes]
    except GpumodError as error:
        answer = {"error": error.info.model_dump()}
    print(json.dumps(answer), flush=True)
"""


class Reader:
    """A process that reads the GPUs through the binding whenever it is asked."""

    def __init__(self, folder: Path, *flags: str, timeout_s: float = 10.0) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        env = {**os.environ, "NVML_STANDIN": str(folder), "LD_LIBRARY_PATH": str(build(*flags))}
        argv = [sys.executable, "-c", READ, str(timeout_s)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def cards(self, *lines: str) -> None:
        (self.folder / "cards").write_text("".join(f"{line}\n" for line in lines))

    def faults(self, *lines: str) -> None:
        (self.folder / "faults").write_text("".join(f"{line}\n" for line in lines))

    def read(self, how: str = "") -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path / "driver")
    yield found
    found.close()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Reader]:
    """A driver that lacks the newer functions."""
    found = Reader(tmp_path / "driver", "-DOLD")
    yield found
    found.close()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that lives."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_totals_and_processes(reader: Reader, sleeper: int) -> None:
    reader.cards(CARD.format(used=1500), f"proc 0 {sleeper} 1200 -1", f"proc 0 {os.getpid()} 100 -1")
    told = reader.read()
    (gpu,) = told["gpus"]
    assert gpu == {
        "index": 0, "name": "NVIDIA GeForce RTX 4090", "uuid": "GPU-one", "total_mb": 24564, "used_mb": 1500,
        "free_mb": 22700, "reserved_mb": 364, "per_process": True, "architecture": "Ada", "compute_capability": "8.9",
        "fault": None,
    }  # fmt: skip
    # an even pid stands in the list of graphics too, with half as much
    assert {p["pid"]: p["vram_mb"] for p in told["processes"]} == {sleeper: 1200, os.getpid(): 100}
    assert {p["pid"]: p["name"] for p in told["processes"]}[sleeper] == "sleep"
    assert told["env"] == {"0": {"CUDA_VISIBLE_DEVICES": "GPU-one", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}}
    said = " ".join(finding["message"] for finding in told["findings"])
    assert all(part in said for part in ("580.65.06", "CUDA 13.0", "GPU-one", "364 MiB", "persistence", "what each"))


def test_an_architecture_that_is_not_known(reader: Reader) -> None:
    reader.cards("gpu 0 8192 0 0 77 GPU-x Card of tomorrow")
    assert reader.read()["gpus"][0]["architecture"] == "unknown(77)"


def test_a_process_that_does_not_live_here_leaves_its_memory_to_nobody(reader: Reader, sleeper: int) -> None:
    reader.cards(CARD.format(used=1300), f"proc 0 {sleeper} 1000 -1", "proc 0 4194303 300 -1")
    told = reader.read()
    assert [p["pid"] for p in told["processes"]] == [sleeper]
    assert told["gpus"][0]["used_mb"] == 1300


def test_memory_that_is_not_told_is_not_zero(reader: Reader, sleeper: int) -> None:
    reader.cards(CARD.format(used=1200), f"proc 0 {sleeper} 1200 -1")
    reader.faults("no-memory")
    told = reader.read()
    assert [p["vram_mb"] for p in told["processes"]] == [None]
    assert told["gpus"][0]["per_process"] is False
    assert any("does not tell what each process holds" in finding["message"] for finding in told["findings"])


def test_lists_that_are_refused_are_no_failure(reader: Reader, sleeper: int) -> None:
    """Not supported, not permitted, not there."""
    reader.cards(CARD.format(used=1200), f"proc 0 {sleeper} 1200 -1")
    lists = ("Compute", "Graphics", "MPSCompute")
    for code in (3, 4, 13):
        reader.faults(*(f"nvmlDeviceGet{kind}RunningProcesses_{v} {code}" for kind in lists for v in ("v2", "v3")))
        told = reader.read()
        (gpu,) = told["gpus"]
        assert (code, told["processes"], gpu["per_process"], gpu["free_mb"]) == (code, [], False, 23000)


def test_an_old_driver_is_asked_in_the_old_way(old: Reader, sleeper: int) -> None:
    old.cards(CARD.format(used=1200), f"proc 0 {sleeper} 1200 -1")
    told = old.read()
    assert [p["vram_mb"] for p in told["processes"]] == [1200]
    (gpu,) = told["gpus"]
    # what is reserved is not told: it is in use, and nobody's
    assert (gpu["total_mb"], gpu["free_mb"], gpu["used_mb"], gpu["reserved_mb"]) == (24564, 23000, 1564, 0)


def test_a_partitioned_card_is_its_instances(reader: Reader, sleeper: int) -> None:
    reader.cards(
        "gpu 0 24564 0 0 8 GPU-one NVIDIA GeForce RTX 4090",
        "gpu 1 40960 0 0 7 GPU-two NVIDIA A100",
        "mig 1 0 9856 700 MIG-a NVIDIA A100 MIG 1g.10gb",
        "mig 1 1 19968 0 MIG-b NVIDIA A100 MIG 2g.20gb",
        f"proc 1 {sleeper} 700 0",
    )
    told = reader.read()
    assert [(g["index"], g["uuid"], g["total_mb"], g["used_mb"]) for g in told["gpus"]] == [
        (0, "GPU-one", 24564, 0),
        (1, "MIG-a", 9856, 700),
        (2, "MIG-b", 19968, 0),
    ]
    assert told["gpus"][1]["architecture"] == "Ampere"
    assert [(p["pid"], p["gpu"], p["vram_mb"]) for p in told["processes"]] == [(sleeper, 1, 700)]
    assert told["env"]["2"]["CUDA_VISIBLE_DEVICES"] == "MIG-b"
    assert any("its 2 instances are used in its place" in finding["message"] for finding in told["findings"])
    # beside a partitioned GPU, CUDA's numbers are not NVML's: none of these can be told by number
    assert {told["numbers"][gpu]["code"] for gpu in "012"} == {"gpus-by-number"}
    assert "GPU 1 (NVIDIA A100 MIG 1g.10gb) is a MIG instance" in told["numbers"]["0"]["why"]


def test_cards_are_numbered_where_numbers_tell_them(reader: Reader) -> None:
    reader.cards(CARD.format(used=0), "gpu 1 24564 0 0 8 GPU-two RTX 3090", "gpu 2 8192 0 0 8 GPU-three RTX 4060")
    told = reader.read()["numbers"]
    assert told == {n: {"CUDA_VISIBLE_DEVICES": n, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for n in "012"}
    reader.faults("device 15 1")  # CUDA does not count a card that is lost
    told = reader.read()["numbers"]
    assert told["0"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert told["2"]["code"] == "gpus-by-number"
    assert told["2"]["why"] == "GPU 1 (RTX 3090) cannot be read: numbers may mean another one"


def test_a_driver_that_cannot_be_used_says_why(reader: Reader) -> None:
    for code, name, hint in (
        (9, "driver-not-loaded", "modprobe"),
        (18, "driver-mismatch", "reboot"),
        (4, "gpu-no-permission", "/dev/nvidia"),
        (10, "gpu-timeout", "dmesg"),
        (13, "no-nvidia-driver", "install"),
        (999, "nvml-failed", "nvidia-smi"),
    ):
        reader.faults(f"nvmlInitWithFlags {code}")
        error = reader.read()["error"]
        assert error["code"] == name
        assert hint in error["hint"]
        assert error["why"]
    reader.faults()
    reader.cards(CARD.format(used=0))
    assert len(reader.read()["gpus"]) == 1


def test_the_driver_is_let_go_of_with_the_probe(reader: Reader) -> None:
    reader.cards(CARD.format(used=0))
    for _ in range(2):
        assert len(reader.read()["gpus"]) == 1
        assert reader.read("anew") is False


@pytest.mark.parametrize("function", ["MigDeviceHandleByIndex", "MigMode", "MaxMigDeviceCount"])
def test_a_place_that_fails_moves_no_other_card(reader: Reader, function: str) -> None:
    reader.cards("gpu 0 40960 0 0 7 GPU-p NVIDIA A100", "mig 0 0 9856 0 MIG-a one", "mig 0 1 9856 0 MIG-b two",
                 "gpu 1 8192 0 0 8 GPU-q RTX 4060")  # fmt: skip
    assert len(reader.read()["gpus"]) == 3
    reader.faults(f"nvmlDeviceGet{function} 999 0")
    told = reader.read()["gpus"]
    assert [(g["index"], g["uuid"], g["fault"] is None) for g in told] == [
        (0, "MIG-a", False),
        (1, "MIG-b", False),
        (2, "GPU-q", True),
    ]


@pytest.mark.parametrize("function", ["device", "nvmlDeviceGetMemoryInfo_v2"])
def test_one_card_fails_and_the_others_are_read(reader: Reader, function: str) -> None:
    reader.cards(CARD.format(used=0), "gpu 1 24564 0 0 8 GPU-two RTX 3090", "gpu 2 8192 0 0 8 GPU-three RTX 4060")
    for code, name in (
        (15, "gpu-lost"),
        (16, "gpu-reset-required"),
        (4, "gpu-no-permission"),
        (999, "gpu-failed"),
    ):
        reader.faults()
        assert [gpu["fault"] for gpu in reader.read()["gpus"]] == [None, None, None]
        reader.faults(f"{function} {code} 1")
        told = reader.read()["gpus"]
        assert [gpu["index"] for gpu in told] == [0, 1, 2]
        fault = told[1]["fault"]
        assert fault["code"] == name
        assert fault["message"].startswith("GPU 1 (RTX 3090)")
        assert "cuda_devices" in fault["hint"]
        assert (told[1]["uuid"], told[1]["free_mb"], told[0]["fault"], told[2]["free_mb"]) == ("GPU-two", 0, None, 8192)


def test_a_partitioned_card_that_is_lost_keeps_its_places(reader: Reader) -> None:
    reader.cards("gpu 0 40960 0 0 7 GPU-p NVIDIA A100", "mig 0 0 9856 0 MIG-a one", "mig 0 1 9856 0 MIG-b two",
                 "gpu 1 8192 0 0 8 GPU-q RTX 4060")  # fmt: skip
    assert len(reader.read()["gpus"]) == 3
    reader.faults("device 15 0")
    told = reader.read()["gpus"]
    assert [(g["index"], g["uuid"], g["fault"] is None) for g in told] == [
        (0, "MIG-a", False),
        (1, "MIG-b", False),
        (2, "GPU-q", True),
    ]


def test_a_driver_that_hangs_hangs_nobody(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "driver", timeout_s=0.5)
    try:
        reader.cards(CARD.format(used=0))
        assert reader.read()["gpus"]
        reader.faults("hang nvmlDeviceGetMemoryInfo_v2")
        began = time.monotonic()
        assert [reader.read()["error"]["code"] for _ in range(3)] == ["gpu-timeout"] * 3
        assert time.monotonic() - began < 5.0
        assert reader.process.stdin is not None
        reader.process.stdin.close()
        assert reader.process.wait(10) == 0  # the call that hangs does not keep the program from ending
    finally:
        reader.close()
