"""The parts of the NVML probe that need no driver, and what is said where there is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpumod.adapters.bounded import Bounded
from gpumod.adapters.local import memory_pressure
from gpumod.adapters.nvml.faults import TIMEOUT, driver_error
from gpumod.adapters.nvml.people import lives, name_of
from gpumod.adapters.nvml.place import PLACES, shared_folder
from gpumod.adapters.nvml.probe import NvmlProbe
from gpumod.domain.errors import MachineLacks, UnknownName
from gpumod.domain.machine import GpuProcess, GpuReading
from gpumod.domain.settings import Settings, device_list
from gpumod.engine.machine import chosen

GPUS = tuple(
    GpuReading(index=i, name=f"card {i}", uuid=f"GPU-{i}a", total_mb=8000, used_mb=0, free_mb=8000) for i in range(4)
)
PROCESSES = tuple(GpuProcess(pid=10 + i, name="p", gpu=i, vram_mb=1) for i in range(4))


READ = """
from gpumod.adapters.nvml.probe import NvmlProbe
from gpumod.domain.errors import MachineLacks
from gpumod.domain.settings import Settings

try:
    NvmlProbe(Settings()).read()
except MachineLacks as error:
    print(error.info.code, error.info.hint)
"""


def test_without_the_library_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")  # it hides one that this computer may have
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", READ], env=env, capture_output=True, text=True, check=True).stdout
    assert told.startswith("no-nvidia-driver install the driver")


def test_host_memory_is_told_without_a_driver() -> None:
    ram = NvmlProbe(Settings()).ram()
    assert 0 < ram.available_mb <= ram.total_mb


def test_the_lock_is_where_everybody_may_write_or_where_it_is_said() -> None:
    folder = shared_folder()
    assert folder.parent in PLACES
    mode = folder.parent.stat().st_mode
    assert mode & stat.S_ISVTX
    assert mode & stat.S_IWOTH
    assert NvmlProbe(Settings()).machine_dir() == folder
    assert str(NvmlProbe(Settings(lock_dir="/shared/locks")).machine_dir()) == "/shared/locks"


def test_a_late_call_is_left_behind_and_nobody_waits_for_another() -> None:
    bounded: Bounded[int] = Bounded(0.05, lambda told: driver_error(TIMEOUT, told))
    hanging, calls = threading.Event(), []

    def hangs() -> int:
        calls.append(1)
        hanging.wait(20)
        return 1

    for _ in range(3):
        with pytest.raises(MachineLacks) as caught:
            bounded(hangs)
        assert caught.value.code == "gpu-timeout"
    assert len(calls) == 1
    hanging.set()
    assert Bounded[int](20, lambda told: driver_error(TIMEOUT, told))(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        Bounded[float](20, lambda told: driver_error(TIMEOUT, told))(lambda: 1 / 0)


def test_who_lives_here() -> None:
    assert lives(os.getpid())
    assert not lives(4194303)
    assert name_of(os.getpid()).startswith(("py", "pytest"))


@given(st.lists(st.integers(0, 3), unique=True, min_size=1), st.booleans())
def test_the_chosen_gpus_keep_their_numbers(wanted: list[int], by_uuid: bool) -> None:
    names = [f"GPU-{i}a" if by_uuid else str(i) for i in wanted]
    settings = Settings(cuda_devices=", ".join(names))
    gpus, processes = chosen((GPUS, PROCESSES), device_list(settings.cuda_devices))
    assert [gpu.index for gpu in gpus] == sorted(wanted)
    assert [process.gpu for process in processes] == sorted(wanted)


def test_a_gpu_that_is_not_there_is_named_with_those_that_are() -> None:
    assert chosen((GPUS, PROCESSES), ()) == (GPUS, PROCESSES)
    with pytest.raises(UnknownName, match="5, GPU-x") as caught:
        chosen((GPUS, PROCESSES), ("1", "5", "GPU-x"))
    assert caught.value.code == "unknown-gpu"
    assert "3 card 3 GPU-3a" in caught.value.info.why


@pytest.mark.parametrize("text", ["0,,1", "first", "0 1", "-1", "1,1", "GPU-"])
def test_what_names_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(cuda_devices=text)


def test_memory_pressure_is_read_as_the_kernel_writes_it(tmp_path) -> None:
    file = tmp_path / "memory"
    file.write_text("some avg10=12.34 avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    assert memory_pressure(file) == 12.34
    file.write_text("nonsense")
    assert memory_pressure(file) is None
    assert memory_pressure(tmp_path / "none") is None
