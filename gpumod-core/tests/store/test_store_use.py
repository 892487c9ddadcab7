"""Turns, uses and idle time-outs in the store; and what of events and runs is kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gpumod.adapters.store import SqlStore, open_store
from gpumod.adapters.store.journal import KEPT_EVENTS, KEPT_OF_A_KIND
from gpumod.adapters.store.runs import KEPT_RUNS
from gpumod.domain.idling import Use
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.plan import Plan, Target, VerdictKind
from gpumod.domain.run import Event, Run, RunStatus
from gpumod.domain.states import State
from gpumod.domain.turns import Ticket

EVENT = Event(at=1.0, kind="turn-began", subject="hyde")


@pytest.fixture
def kept(path: Path) -> Iterator[SqlStore]:
    with open_store(path) as store:
        yield store


def ticket(name: str) -> Ticket:
    return Ticket(id=name, service="hyde", holder="ann (pid 7)", pid=7, identity="x", asked_at=1.0)


def test_tickets_have_numbers_in_their_order_and_come_back_as_they_were(kept: SqlStore) -> None:
    first, second = kept.add_turn(ticket("a")), kept.add_turn(ticket("b"))
    assert first.number < second.number
    begun = first.model_copy(update={"began_at": 2.0, "before": State.SLEEPING})
    kept.note_turn(begun, event=EVENT)
    assert kept.turns() == (begun, second)
    kept.delete_turn("a", event=EVENT)
    kept.delete_turn("a", event=EVENT)
    assert kept.turns() == (second,)
    kept.note_turn(begun, event=EVENT)  # it is gone, and does not come back
    assert kept.add_turn(ticket("c")).number > second.number
    assert [t.id for t in kept.turns()] == ["b", "c"]
    assert [event.kind for event in kept.events_of("turn-began", limit=9)] == ["turn-began"] * 2


def test_uses_are_replaced_as_a_whole(kept: SqlStore) -> None:
    use = Use(service="chat", run="1", served=3.0, used_at=1.0, seen_at=2.0)
    kept.put_uses({"chat": use, "hyde": use.model_copy(update={"service": "hyde", "served": None})})
    kept.put_uses({"chat": use})
    assert kept.uses() == {"chat": use}


def test_a_row_that_was_broken_by_hand_holds_nothing(kept: SqlStore, path: Path) -> None:
    kept.add_turn(ticket("a"))
    kept.put_uses({"chat": Use(service="chat", run="1", used_at=1.0, seen_at=2.0)})
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE turns SET service = '../x'")
        raw.execute("UPDATE uses SET used_at = 'yesterday'")
    assert (kept.turns(), kept.uses()) == ((), {})


def test_the_idle_time_out_of_a_member_comes_back(kept: SqlStore) -> None:
    members = (ModeMember(service="chat", want=Want.TIME_SHARED, idle_timeout=60.0), ModeMember(service="x"))
    mode = Mode(id="m", members=members)
    kept.put_mode(mode, event=EVENT)
    assert kept.modes() == {"m": mode}


def test_the_newest_events_are_kept_and_those_that_are_asked_for_later_beside_them(kept: SqlStore, path: Path) -> None:
    rows = [
        (float(n), ("boot-seen", "watch-restart", "boot-seen")[n] if n < 3 else "step-done", "chat", "{}")
        for n in range(KEPT_EVENTS + 50)
    ]
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.executemany("INSERT INTO events (at, kind, subject, data) VALUES (?, ?, ?, ?)", rows)
    kept.add_event(EVENT)
    assert len(kept.events(2 * KEPT_EVENTS)) == KEPT_EVENTS + 3
    assert kept.events(1) == (EVENT,)
    assert (len(kept.events_of("boot-seen", limit=9)), len(kept.events_of("watch-restart", limit=9))) == (2, 1)
    with kept.together():
        for n in range(KEPT_OF_A_KIND + 5):
            kept.add_event(Event(at=float(n), kind="boot-seen", subject="machine"))
    assert len(kept.events_of("boot-seen", limit=2 * KEPT_OF_A_KIND)) == KEPT_OF_A_KIND


def test_the_newest_runs_are_kept_with_their_steps_and_those_by_hand_much_longer(kept: SqlStore, path: Path) -> None:
    commands = [
        "switch rag",
        "service start chat",
        "turned",
        *["turn hyde", "watch: sleep x", "turn x: over"] * KEPT_RUNS,
    ]
    with closing(sqlite3.connect(path)) as raw, raw:
        for n, command in enumerate(commands[: KEPT_RUNS + 99]):
            told = (f"old{n}", command, "h", "half-way" if n == 5 else "done", 1.0, "{}")
            columns = "id, command, holder, status, started_at, definition"
            raw.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?)", told)  # noqa: S608  # a constant
        columns = "run_id, phase, n, status, detail, definition"
        raw.execute(f"INSERT INTO run_steps ({columns}) VALUES ('old4', 'apply', 1, '', '', '')")  # noqa: S608  # as above
    plan = Plan(id="p", target=Target(), verdict=VerdictKind.FITS)
    run = Run(id="new", command="turn x", holder="h", status=RunStatus.DONE, target=Target(), plan=plan, started_at=2.0)
    kept.add_run(run)
    with closing(sqlite3.connect(path)) as raw:
        ids = [name for (name,) in raw.execute("SELECT id FROM runs ORDER BY seq")]
        assert raw.execute("SELECT count(*) FROM run_steps").fetchone() == (0,)
    assert ids[:4] == ["old0", "old1", "old2", "old5"]  # one that is open is never dropped
    assert (len(ids), ids[-1]) == (KEPT_RUNS + 4, "new")
