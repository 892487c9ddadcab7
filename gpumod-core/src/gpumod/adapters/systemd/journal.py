"""What a run wrote, from the journal, by systemd's id of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gpumod.adapters.systemd.manager import Manager

MOST = 100_000


def lines_of(manager: Manager, invocation: str, lines: int) -> tuple[str, ...]:
    """The last lines of a run, oldest first; one that says so where the journal cannot be read."""
    if not invocation or lines <= 0:
        return ()
    words = ("journalctl", "--quiet", "--no-pager", "--output=json", "--all", f"--lines={min(lines, MOST)}")
    answer = manager.run([*words, "--output-fields=MESSAGE", f"_SYSTEMD_INVOCATION_ID={invocation}"])
    if answer.code and answer.err.strip():
        return (f"gpumod: the journal cannot be read: {answer.err.strip().splitlines()[-1]} (docs/systemd.md)",)
    found = [line for entry in _entries(answer.out) for line in _text(entry.get("MESSAGE")).split("\n")]
    return tuple(line.rstrip("\r").rsplit("\r", 1)[-1] for line in found[-lines:])


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _text(message: object) -> str:
    """A message: text, or bytes where it is none; null where it is too large, and a list where there are several."""
    if isinstance(message, list):
        if all(isinstance(byte, int) for byte in message):
            return bytes(message).decode("utf-8", "replace")
        return "\n".join(map(_text, message))
    return message if isinstance(message, str) else ""
