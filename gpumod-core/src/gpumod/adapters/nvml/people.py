"""The processes on a card, as this machine knows them: which of them live here, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import psutil

from gpumod.adapters.nvml import calls
from gpumod.adapters.process.proc import start_ticks
from gpumod.domain.base import has_control_characters

FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The kernel's fixed number of the namespace that everything begins in: elsewhere (a container) pids are others."""
MAX_NAME = 64


def lives(pid: int) -> bool:
    """True for a process of this machine (this container) that is neither gone nor a zombie."""
    return start_ticks(pid) is not None


def name_of(pid: int) -> str:
    """What a process is called, without anything that a terminal would obey."""
    try:
        name = psutil.Process(pid).name()
    except psutil.Error:
        name = PurePosixPath(calls.process_name(pid)).name
    return "".join("?" if has_control_characters(c) else c for c in name[:MAX_NAME]) or "?"


def counts_pids_apart() -> bool:
    """True inside a container with pids of its own: the driver may tell pids of the host, which mean nothing here."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != FIRST_PID_NAMESPACE
    except OSError:
        return False


def is_wsl() -> bool:
    """True under Windows' subsystem for Linux, where the driver tells nothing of processes."""
    return "microsoft" in os.uname().release.lower() and Path("/dev/dxg").exists()
