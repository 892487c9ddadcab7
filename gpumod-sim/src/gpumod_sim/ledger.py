"""The ledger: who holds how much of the simulated memory. One JSON file, changed under the machine's lock.

A row is `{"pid", "start", "space", "service", "gpu", "mb", "died"}`; `space` is the namespace in which the pid counts
(a container has one of its own). Host RAM that sleepers hold is kept in rows whose gpu is None. A leak has no pid. A
process that died is forgotten after the machine's lag, by whoever reads or writes next. A row of a living process
that gave memory back has `"then": {"mb", "at"}` besides: what it really holds, and since when; it counts with its old
`mb` until the machine's lag for the living is over, as a counter that is behind.
"""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH105, PTH110, PTH202

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from gpumod_sim import faults, procs
from gpumod_sim.machine import Machine, read_json, write_json

Row = dict[str, Any]
Process = tuple[int | None, int | None, int | None]
"""Its pid, its start time, and the namespace that counts so."""
NOBODY: Process = (None, None, None)
MAX_CHANGES_BYTES = 8_000_000


class OutOfMemoryError(Exception):
    """The card (or, where `gpu` is None, the host's RAM) has not enough. All in MiB."""

    def __init__(self, gpu: int | None, need_mb: int, free_mb: int, total_mb: int) -> None:
        super().__init__(f"need {need_mb} MiB, {free_mb} of {total_mb} MiB are free on {gpu}")
        self.gpu, self.need_mb, self.free_mb, self.total_mb = gpu, need_mb, free_mb, total_mb


class Ledger:
    """`guest` is true for the programs of services: one in a container sees nobody outside, and tells of no death."""

    def __init__(self, machine: Machine, *, guest: bool = False) -> None:
        self.machine = machine
        self._guest = guest
        self._space = procs.namespace()

    def rows(self) -> list[Row]:
        """Every row now. Takes the lock only when something died, or a lag is over."""
        rows = self._load()
        if any(self._is_stale(row) for row in rows):
            with self.machine.lock():
                rows = self._pruned()
        return rows

    def public(self) -> dict[str, Any]:
        """The ledger as it is shown: GPUs, allocations, and the host RAM of sleepers."""
        shown = [
            {"pid": self.pid_here(row), "service": row["service"], "gpu": row["gpu"], "mb": row["mb"]}
            for row in self.rows()
        ]
        return {
            "gpus": self.machine.gpus(),
            "allocations": [row for row in shown if row["gpu"] is not None],
            "ram": [{key: row[key] for key in ("pid", "service", "mb")} for row in shown if row["gpu"] is None],
        }

    def pid_here(self, row: Row) -> int | None:
        """The pid of the row's process as this process counts; None for a leak, and where it is not to be seen."""
        if row["pid"] is None or self._is_ours(row):
            pid: int | None = row["pid"]
            return pid
        return procs.from_outside(row["pid"], row["start"])

    def used_mb(self, gpu: int | None, rows: list[Row] | None = None) -> int:
        return sum(row["mb"] for row in (self.rows() if rows is None else rows) if row["gpu"] == gpu)

    def total_mb(self, gpu: int | None) -> int | None:
        """What the card has; for None the simulated host RAM, or None where it is not simulated."""
        config = self.machine.config()
        if gpu is None:
            ram: int | None = config.get("ram_mb")
            return ram
        return next((int(card["total_mb"]) for card in config["gpus"] if card["index"] == gpu), 0)

    def free_mb(self, gpu: int) -> int:
        return (self.total_mb(gpu) or 0) - self.used_mb(gpu)

    def hold(self, service: str, mb: Mapping[int, int], *, ram_mb: int | None = None, at_once: bool = False) -> None:
        """Let this process hold exactly `mb[gpu]` on each GPU named (and of host RAM), all or nothing.

        What is given back on a GPU stays in use for the machine's lag, unless `at_once`. Raises OutOfMemoryError when
        a card has not enough, and then changes nothing.
        """
        pid = os.getpid()
        places: dict[int | None, int] = dict(mb.items())
        if ram_mb is not None:
            places[None] = ram_mb
        start = procs.start_time(pid)
        with self.machine.lock():
            rows = self._pruned()
            me = (pid, start, self._space)
            kept = [row for row in rows if not (_process(row) == me and row["gpu"] in places)]
            changes = []
            for gpu, wanted in places.items():
                had = self.used_mb(gpu, rows) - self.used_mb(gpu, kept)
                total = self.total_mb(gpu)
                free = (total or 0) - self.used_mb(gpu, rows)
                if total is not None and wanted - had > max(free, 0):
                    raise OutOfMemoryError(gpu, wanted - had, max(free, 0), total)
                if wanted < had and gpu is not None and not at_once:
                    kept.append({**_row(me, service, gpu, had), "then": {"mb": wanted, "at": time.time()}})
                elif wanted > 0:
                    kept.append(_row(me, service, gpu, wanted))
                if wanted != had:
                    changes.append(_change("hold", pid, service, gpu, wanted))
            taken_back = any("then" in row for row in rows if row not in kept)  # it was about to shrink
            if changes or taken_back:
                self._save(kept, changes)

    def leave(self, pid: int) -> None:
        """Mark that `pid` is dying now: its lag begins."""
        with self.machine.lock():
            rows = self._load()
            mine = [row for row in rows if row["pid"] == pid and self._is_ours(row) and row["died"] is None]
            for row in mine:
                row["died"] = time.time()
            if mine:
                self._save(rows, [_change("died", pid, row["service"], row["gpu"], row["mb"]) for row in mine])

    def forget_leaks(self, service: str | None) -> None:
        """Give back what `service` (None: anybody) leaked."""
        with self.machine.lock():
            rows = self._pruned()
            gone = [r for r in rows if r["pid"] is None and service in (None, r["service"].removeprefix("leaked by "))]
            if gone:
                rows = [row for row in rows if row not in gone]
                self._save(rows, [_change("leak-cleared", None, row["service"], row["gpu"], 0) for row in gone])

    # --- under the lock -----------------------------------------------------------------------------------------

    def _load(self) -> list[Row]:
        rows: list[Row] = read_json(self.machine.ledger_path, {"rows": []})["rows"]
        return rows

    def _is_stale(self, row: Row) -> bool:
        if row["pid"] is None:
            return False
        if row["died"] is not None:
            return bool(time.time() - row["died"] >= self.machine.lag_s())
        if self._is_gone(row):
            return True
        return bool("then" in row and time.time() - row["then"]["at"] >= self.machine.living_lag_s())

    def _pruned(self) -> list[Row]:
        """The rows as they are now that lags are over; the newly dead are marked. Saved when anything changed."""
        rows = self._load()
        kept: list[Row] = []
        changes = []
        for row in rows:
            if not self._is_stale(row):
                kept.append(row)
            elif row["died"] is None and self._is_gone(row):
                kept.append({**row, "died": time.time()})
                changes.append(_change("died", row["pid"], row["service"], row["gpu"], row["mb"]))
            elif row["died"] is None:
                now_mb = row["then"]["mb"]
                changes.append(_change("given-back", row["pid"], row["service"], row["gpu"], now_mb))
                if now_mb > 0:
                    kept.append(_row(_process(row), row["service"], row["gpu"], now_mb))
            else:
                changes.append(_change("forgotten", row["pid"], row["service"], row["gpu"], 0))
                kept.extend(self._leak_of(row))
        if changes:
            self._save(kept, changes)
        return kept

    def _is_ours(self, row: Row) -> bool:
        return row.get("space") in (None, self._space)

    def _is_gone(self, row: Row) -> bool:
        if self._is_ours(row):
            return bool(procs.start_time(row["pid"]) != row["start"])
        return not self._guest and procs.from_outside(row["pid"], row["start"]) is None

    def _leak_of(self, row: Row) -> list[Row]:
        leak = faults.value(self.machine, row["service"], "leak")
        if leak is None or row["gpu"] is None:
            return []
        return [_row(NOBODY, f"leaked by {row['service']}", row["gpu"], min(int(leak), row["mb"]))]

    def _save(self, rows: list[Row], changes: list[dict[str, Any]]) -> None:
        """Log `changes`, then make them: a writer that is killed between the two must not change anything unlogged."""
        used = {str(card["index"]): self.used_mb(card["index"], rows) for card in self.machine.gpus()}
        path = self.machine.changes_path
        if os.path.exists(path) and os.path.getsize(path) > MAX_CHANGES_BYTES:
            os.replace(path, path + ".1")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            lines = "".join(json.dumps({**change, "used_mb": used}) + "\n" for change in changes)
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)
        write_json(self.machine.ledger_path, {"rows": rows})


def _process(row: Row) -> Process:
    return row["pid"], row["start"], row.get("space")


def _row(process: Process, service: str, gpu: int | None, mb: int) -> Row:
    pid, start, space = process
    return {"pid": pid, "start": start, "space": space, "service": service, "gpu": gpu, "mb": mb, "died": None}


def _change(event: str, pid: int | None, service: str, gpu: int | None, mb: int) -> dict[str, Any]:
    return {"at": time.time(), "event": event, "pid": pid, "service": service, "gpu": gpu, "mb": mb}
