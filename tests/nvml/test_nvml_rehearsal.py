"""The tests that need a GPU, rehearsed where there is none: the same files, over stand-ins of NVIDIA's libraries.

What only hardware shows is not shown by this; that the tests still go with gpumod, and gpumod with them, is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml.driver import build, until_told

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
pytestmark = [pytest.mark.nvml, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a machine with a card and a torch for it."""
    torch_python = tmp_path / "python-with-torch"
    torch_python.write_text(f'#!/bin/sh\nPYTHONPATH={HERE / "torch_standin"} exec {sys.executable} "$@"\n')
    torch_python.chmod(0o700)
    libraries = (build(), build(source=HERE / "libcuda.c"))
    folder = tmp_path / "card"
    folder.mkdir()
    with subprocess.Popen([sys.executable, str(HERE / "holdings.py"), str(folder)]) as card:
        try:
            until_told(folder)
            yield {
                **os.environ,
                "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
                "NVML_STANDIN": str(folder),
                "CUDA_STANDIN": str(folder),
                "GPUMOD_TEST_TORCH_PYTHON": str(torch_python),
            }
        finally:
            card.kill()


@pytest.mark.parametrize(
    ("file", "fault", "told"),
    [
        ("doctor", "", "1 passed"),
        ("memory", "", "3 passed"),
        ("memory", "no-memory", "2 passed, 1 skipped"),
        ("memory", "no-processes", "2 passed, 1 skipped"),
        ("switch", "", "5 passed"),
        ("free", "", "2 passed"),
    ],
)
def test_it_passes(environment: dict[str, str], file: str, fault: str, told: str) -> None:
    Path(environment["NVML_STANDIN"], "faults").write_text(f"{fault}\n")
    argv = [sys.executable, "-m", "pytest", "-m", "gpu_required", f"tests/gpu/test_gpu_{file}.py"]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"=+ {told} in ", done.stdout), done.stdout
