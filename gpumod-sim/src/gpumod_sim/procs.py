"""What /proc says of a process. Light: the stand-ins import it."""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH123

from __future__ import annotations


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def name(pid: int) -> str:
    """The name of `pid`, or an empty text when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
