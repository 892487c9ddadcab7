"""Control groups: which processes are in one, and the end of all of them."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from pathlib import Path

from gpumod.ports import Clock

_POLL_S = 0.02


def pids_in(group: str) -> tuple[int, ...]:
    """Every process in a control group (as systemd names it, with a `/` first) and in those below it."""
    root = _root()
    if not group or root is None:
        return ()
    found: list[int] = []
    for folder, _, _ in os.walk(f"{root}{group}"):
        with contextlib.suppress(OSError):  # it was removed meanwhile
            found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
    return tuple(sorted(pid for pid in found if pid))  # 0 is a process of another namespace


async def kill_all(group: str, clock: Clock, timeout_s: float) -> tuple[int, ...]:
    """SIGKILL everything in a group until nothing is left, and return what is, after `timeout_s`.

    The kernel (from 5.14) kills a group whole; else it is done again and again, faster than processes fork.
    """
    give_up = clock.monotonic() + timeout_s
    while left := pids_in(group):
        with contextlib.suppress(OSError):  # an older kernel, somebody else's group, or it is gone
            Path(f"{_root()}{group}/cgroup.kill").write_text("1")
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if clock.monotonic() >= give_up:
            break
        await clock.sleep(_POLL_S)
    return left


@functools.cache
def _root() -> Path | None:
    """Where systemd's tree of control groups is mounted."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        if (Path(folder) / "cgroup.procs").exists():
            return Path(folder)
    return None
