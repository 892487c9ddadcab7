"""kill -9 of gpumod in the middle of each kind of step: everything is refused until `recover`, which puts it right."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim

BEFORE = {"asr": "running", "embedding": "running", "hyde": "sleeping"}
AFTER = {"chat": "running", "embedding": "sleeping", "hyde": "running", "llama-router": "running", "tts": "running"}
TRIES = 8
MOMENTS = (
    "sleep embedding",
    "start chat",
    "stop asr",
    "wake hyde",
    "start tts",
    "spawned tts",
    "start llama-router",
    "verify *",
    "a step is done",
)


def prepare(machine: Machine) -> None:
    """Two modes; the way from one to the other has a step of every kind."""
    machine.ok("mode", "create", "work", "--services", "asr,embedding,hyde", "--asleep", "hyde")
    machine.ok("mode", "create", "talk", "--services", "tts,chat,embedding,hyde", "--asleep", "embedding")
    machine.change("switch", "work")
    assert machine.states() == BEFORE


def journal(machine: Machine) -> dict[tuple[str, str], str]:
    """The status of each step of the last run, by action and service."""
    rows = machine.sql(
        "SELECT status, definition FROM run_steps WHERE run_id = (SELECT id FROM runs ORDER BY seq DESC LIMIT 1)"
    )
    steps = [(status, json.loads(definition)) for status, definition in rows]
    return {(step["step"]["action"], step["step"]["service"]): status for status, step in steps}


def events(machine: Machine, after: int) -> set[tuple[str, str]]:
    return set(machine.sql("SELECT kind, subject FROM events WHERE seq > ?", after))


def slow(machine: Machine, moment: str) -> None:
    """Make the step last, so that it can be hit."""
    if moment in ("sleep embedding", "wake hyde"):
        machine.sim.configure(speed=1.0)
    elif moment == "stop asr":
        machine.sim.configure(lag_s=0.5)
    elif moment.startswith("start"):
        machine.fault(moment.split()[1], "slow-start", 100.0)


def quicken(machine: Machine) -> None:
    machine.sim.configure(speed=500.0, lag_s=0.05)
    machine.clear()


def killed(machine: Machine, moment: str) -> None:
    """`switch talk`, killed at `moment`: `ACTION SERVICE` (the step is under way), an event, or `a step is done`."""
    for _ in range(TRIES):
        if kill_at(machine, moment):
            return
        machine.change("switch", "work")
    pytest.fail(f"{TRIES} switches were over before {moment!r} was seen")


def kill_at(machine: Machine, moment: str) -> bool:
    """One try; False when the switch was done before."""
    runs = machine.sql("SELECT count(*) FROM runs")[0][0]
    last_event = machine.sql("SELECT max(seq) FROM events")[0][0]
    slow(machine, moment)
    process = machine.begin("switch", "talk")
    while process.poll() is None:
        time.sleep(0.003)
        if machine.sql("SELECT count(*) FROM runs")[0][0] > runs and reached(machine, moment, last_event):
            process.send_signal(signal.SIGKILL)
            break
    machine.end(process)
    quicken(machine)
    return process.returncode == -signal.SIGKILL and machine.status()["open_run"] is not None


def reached(machine: Machine, moment: str, last_event: int) -> bool:
    if moment == "a step is done":
        return "done" in journal(machine).values()
    action, _, service = moment.partition(" ")
    if action == "spawned":
        return (action, service) in events(machine, last_event)
    return journal(machine).get((action, service)) == "running"


def changes_are_refused(machine: Machine) -> None:
    status = machine.status()
    assert status["busy"] is None
    for change in (("switch", "blank"), ("service", "stop", "embedding")):
        refused = machine.quick(*change)
        assert (refused.code, refused.error["code"]) == (7, "interrupted-run"), refused
        assert "recover --resume" in refused.error["hint"]
    shown = machine.ok("recover").json
    assert shown["open_run"]["status"] == "half-way"  # whatever it last wrote: nobody is at it
    assert shown["open_run"]["id"] == status["open_run"]


def steps_are_closed(machine: Machine) -> None:
    run: Any = machine.ok("history", "show", "last").json["run"]
    assert {step["status"] for step in run["steps"]} <= {"done", "failed", "skipped"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_switch_is_rolled_back_and_resumed(machine: Machine, moment: str) -> None:
    prepare(machine)
    held = machine.held()

    killed(machine, moment)
    changes_are_refused(machine)
    back = machine.ok("recover", "--rollback")
    assert back.json["change"]["status"] == "rolled-back", back
    steps_are_closed(machine)
    assert machine.states() == BEFORE
    assert machine.held() == held
    machine.whole("work")
    for service in ("asr", "embedding"):
        machine.ask(service)

    killed(machine, moment)
    on = machine.ok("recover", "--resume")
    assert on.json["change"]["status"] == "done", on
    steps_are_closed(machine)
    assert machine.states() == AFTER
    machine.whole("talk")
    for service in ("tts", "hyde", "chat"):
        machine.ask(service)
