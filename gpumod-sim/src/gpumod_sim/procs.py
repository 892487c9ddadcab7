"""What /proc says of a process. Light: the stand-ins import it."""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH116, PTH123, PTH208

from __future__ import annotations

import os
from collections.abc import Mapping


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def namespace() -> int:
    """The namespace in which this process counts pids, by the kernel's number."""
    return os.stat("/proc/self/ns/pid").st_ino


def from_outside(pid: int, start: int) -> int | None:
    """The pid, in this namespace, of the living process that one below it knows as `pid`; None where there is none.

    Start times are the same everywhere: they count from the boot.
    """
    for entry in os.listdir("/proc"):
        if entry.isdigit() and start_time(int(entry)) == start and _innermost(entry) == pid:
            return int(entry)
    return None


def _innermost(entry: str) -> int | None:
    try:
        with open(f"/proc/{entry}/status", encoding="utf-8", errors="replace") as file:
            told = next(line.split() for line in file if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return None
    return int(told[-1]) if len(told) > 2 else None


def name(pid: int) -> str:
    """The name of `pid`, or an empty text when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_and_hear(argv: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Start a process in a session of its own, which outlives this one; its pid, and the first line that it wrote."""
    reading, writing = os.pipe()
    try:
        # Not our stderr: a pipe that it kept open would hide from our reader that we ended.
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 2)]
        actions = [*nothing, (os.POSIX_SPAWN_DUP2, writing, 1)]
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)
    finally:
        os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as said:
        return pid, said.readline().strip()
