"""What a run wrote, from the journal, by systemd's id of the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from gpumod.adapters.systemd.manager import Manager

Entry = dict[str, Any]
MOST = 100_000
BESIDE = 20
"""Entries of a user's manager itself that are looked through beside the lines that are wanted."""
FIELDS = (
    *("MESSAGE", "SYSLOG_IDENTIFIER", "_SYSTEMD_INVOCATION_ID"),
    *("USER_UNIT", "USER_INVOCATION_ID", "_SOURCE_REALTIME_TIMESTAMP"),
)


def lines_of(manager: Manager, unit: str, invocation: str, lines: int) -> tuple[str, ...]:
    """The last lines of a run of `unit`, oldest first; one that says so where the journal cannot be read."""
    if not invocation or lines <= 0:
        return ()
    ofs = [f"_SYSTEMD_INVOCATION_ID={invocation}"]
    if manager.scope == "user":
        # What a process of a user's manager wrote just before it died may bear nothing but the name that its unit
        # gives: by then the journal no longer finds its control group, which names the run.
        ofs += ["+", f"SYSLOG_IDENTIFIER={_stem(unit)}", f"_UID={os.getuid()}", "+", f"USER_UNIT={unit}"]
    fields = f"--output-fields={','.join(FIELDS)}"
    words = ("journalctl", "--quiet", "--no-pager", "--output=json", "--all", f"--lines={min(lines, MOST) + BESIDE}")
    answer = manager.run([*words, fields, *ofs])
    if answer.code and answer.err.strip():
        return (f"gpumod: the journal cannot be read: {answer.err.strip().splitlines()[-1]} (docs/systemd.md)",)
    written = _written(tuple(_entries(answer.out)), unit, invocation)
    found = [line for entry in written for line in _text(entry.get("MESSAGE")).split("\n")]
    return tuple(line.rstrip("\r").rsplit("\r", 1)[-1] for line in found[-lines:])


def _written(entries: Sequence[Entry], unit: str, invocation: str) -> Iterator[Entry]:
    """What the run wrote; of entries that name no run those that came after its manager began with it."""
    said = [entry for entry in entries if entry.get("USER_UNIT") == unit]
    began = min((_sent_us(entry) for entry in said if entry.get("USER_INVOCATION_ID") == invocation), default=0)
    for entry in entries:
        named = entry.get("_SYSTEMD_INVOCATION_ID")
        unnamed = named is None and entry.get("SYSLOG_IDENTIFIER") == _stem(unit) and _came_us(entry) >= began
        if named == invocation or unnamed:
            yield entry


def _came_us(entry: Entry) -> int:
    return int(entry["__REALTIME_TIMESTAMP"])


def _sent_us(entry: Entry) -> int:
    """When a message was sent, which may be some milliseconds before the journal took it."""
    return int(entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry["__REALTIME_TIMESTAMP"])


def _stem(unit: str) -> str:
    return unit.removesuffix(".service")


def _entries(text: str) -> Iterator[Entry]:
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
