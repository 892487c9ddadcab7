"""A stand-in for NVIDIA's driver: a library that the real binding loads, and a process that tells it the ledger."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("libnvidia-ml.c")
LIBRARY = f"{SOURCE.stem}.so.1"
PATIENCE_S = 20.0


def build(*flags: str, source: Path = SOURCE) -> Path:
    """The folder of the library that `source` makes; built once per user, source and flags.

    Without a C compiler the test is skipped; in CI, where there has to be one, it fails.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("CI is meant to have a C compiler")
        pytest.skip("no C compiler (gcc) for the stand-in of NVIDIA's library")
    library = f"{source.stem}.so.1"
    key = hashlib.sha256(source.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gpumod-nvml-{os.getuid()}-{key}"
    if not (folder / library).exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        made = folder / f"made-{os.getpid()}"
        how = ("-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{library}", *flags)
        subprocess.run([compiler, *how, "-o", str(made), str(source)], check=True)
        made.replace(folder / library)
    return folder


def until_told(folder: Path) -> None:
    """Wait until the library that reads `folder` is told of cards."""
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "cards").exists():
        assert time.monotonic() < deadline, "nobody tells of cards"
        time.sleep(0.002)


class Driver:
    """The driver of one test. Its `folder` holds what it tells (`cards`) and what fails (`faults`).

    `flags` are for the mirror: `--mig` makes the cards instances of one GPU, `--reserved MB` lets the driver keep some.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mirrors: list[subprocess.Popen[str]] = []
        self._told: set[str] = set()
        self.flags: tuple[str, ...] = ()
        folder.mkdir()

    def attach(self, machine: Any) -> None:
        """Let `machine` read its GPUs here."""
        folder = machine.sim.folder
        machine.ok("settings", "set", "gpu_probe", "nvml")
        machine.ok("settings", "set", "lock_dir", folder)
        if folder in self._told:
            return
        self._told.add(folder)
        argv = [sys.executable, str(Path(__file__).with_name("mirror.py")), str(self.folder), *self.flags]
        mirror = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)
        self._mirrors.append(mirror)
        assert mirror.stdin is not None
        mirror.stdin.write(folder)  # not as an argument: tests look for what is left of the machine by its folder
        mirror.stdin.close()
        until_told(self.folder)

    def faults(self, *lines: str) -> None:
        """What fails from now on (see the head of the C source); nothing: all is well."""
        new = self.folder / "faults.new"
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self.folder / "faults")

    def close(self) -> None:
        for mirror in self._mirrors:
            mirror.kill()
            mirror.wait()


@contextlib.contextmanager
def running_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> Iterator[Driver]:
    """A driver for this process and for every program that it starts. `flags` are the compiler's."""
    library = build(*flags)
    monkeypatch.setenv("NVML_STANDIN", str(folder))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    # A library that is loaded is found by its name afterwards, by the binding too.
    ctypes.CDLL(str(library / LIBRARY))
    driver = Driver(folder)
    try:
        yield driver
    finally:
        driver.close()


@contextlib.contextmanager
def driver_for(probe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver | None]:
    """Nothing for the probe `sim`; for `nvml [FAULT]` a driver, which has the fault."""
    if probe == "sim":
        yield None
        return
    with running_driver(folder, monkeypatch) as driver:
        driver.faults(*probe.split()[1:])
        yield driver
