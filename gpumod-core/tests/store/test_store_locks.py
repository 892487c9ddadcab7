"""SQLite's locks belong to the process: nothing that gpumod does beside SQLite may drop them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.run import Event

EVENT = Event(at=0.0, kind="test", subject="x")


def locks(path: Path) -> set[str]:
    """The kernel's locks of this process on a file."""
    ours = (str(os.getpid()), str(path.stat().st_ino))
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {row[3] + row[6] for row in rows if (row[4], row[5].rpartition(":")[2]) == ours}


def test_opening_a_database_once_more_keeps_the_locks_on_it(tmp_path: Path) -> None:
    path = tmp_path / "gpumod.db"
    with open_store(path) as store:
        store.services()
        held = locks(path)
        assert held
        with open_store(path) as other:
            other.services()
            assert locks(path) >= held


def test_nobody_else_writes_from_the_beginning_of_a_transaction_of_several_calls(path: Path) -> None:
    with open_store(path) as store, closing(sqlite3.connect(path, timeout=0)) as other:
        with store.together():
            store.services()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


def test_a_transaction_of_several_calls_inside_another_is_part_of_it(path: Path) -> None:
    def write_and_fail() -> None:
        with store.together():
            with store.together():
                store.put_setting("reserve_mb", "1", event=EVENT)
            store.put_setting("ram_reserve_mb", "2", event=EVENT)
            raise RuntimeError("undo")

    with open_store(path) as store:
        with pytest.raises(RuntimeError, match="undo"):
            write_and_fail()
        assert store.settings() == {}
