"""Handles that were broken by hand while their services run: nothing is forgotten, and all of it can be ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]


def by_hand(machine: Machine, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(machine.home / "gpumod.db")) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE handles SET definition = '{}' WHERE service = 'embedding-code'",
        "UPDATE handles SET definition = 'oops', started_at = 'soon' WHERE service = 'embedding-code'",
        pytest.param(
            "UPDATE handles SET definition = json_set(definition, '$.launched.port', -1)"
            " WHERE service = 'embedding-code'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_runs_is_found_and_can_be_stopped(machine: Machine, statement: str) -> None:
    machine.change("service", "start", "embedding-code")
    machine.change("service", "start", "asr")
    held = machine.held()
    by_hand(machine, statement)
    status = machine.status()
    assert machine.states() == {"embedding-code": "running", "asr": "running"}
    assert {row["id"]: row["vram_mb"] for row in status["services"] if row["vram_mb"]} == held
    assert [problem["details"]["table"] for problem in status["problems"]] == ["handles"]
    assert "gpumod service stop embedding-code" in status["problems"][0]["hint"]
    machine.ask("embedding-code")
    machine.change("service", "stop", "embedding-code")
    assert machine.status()["problems"] == []
    assert machine.states() == {"asr": "running"}
    assert machine.held() == {"asr": held["asr"]}
    machine.change("service", "start", "embedding-code")
    machine.change("switch", "blank")
    machine.nothing_left()


def test_a_host_that_its_driver_no_longer_takes_is_named_and_no_driver_is_blamed(machine: Machine) -> None:
    by_hand(machine, "UPDATE services SET definition = json_set(definition, '$.unit_vars.was_renamed', 1)"
                     " WHERE id = 'llama-router'")  # fmt: skip
    refused = machine.change("service", "start", "chat", code=2)
    assert refused.error["code"] == "bad-service", refused
    assert "llama-router" in refused.error["message"]
    assert "was_renamed" in refused.error["why"]
    edited = machine.gpumod("service", "edit", "chat", "--vram-mb", "1200")
    assert (edited.code, edited.error["code"]) == (2, "bad-options"), edited
    assert "'llama-router'" in edited.error["message"]


def test_a_switch_ends_what_has_a_broken_row_and_no_definition(machine: Machine) -> None:
    machine.change("service", "start", "embedding-code")
    by_hand(machine, "UPDATE handles SET definition = '[]'")
    by_hand(machine, "DELETE FROM services WHERE id = 'embedding-code'")
    rows = {row["id"]: row for row in machine.status()["services"]}
    assert rows["embedding-code"]["pid"]
    assert rows["embedding-code"]["vram_mb"] == 2500
    machine.change("switch", "blank")
    machine.nothing_left()
    assert machine.status()["problems"] == []


def test_removing_it_stops_it_only_if_that_is_asked_for(machine: Machine) -> None:
    machine.change("service", "start", "embedding-code")
    by_hand(machine, "UPDATE handles SET definition = '{}'")
    by_hand(machine, "DELETE FROM mode_services WHERE service_id = 'embedding-code'")
    refused = machine.quick("service", "remove", "embedding-code")
    assert refused.error["code"] == "still-running"
    machine.ok("service", "remove", "embedding-code", "--stop")
    machine.nothing_left()
    assert machine.status()["problems"] == []


def test_doctor_names_what_runs_without_a_row_and_how_to_end_it(machine: Machine, until: Callable[..., Any]) -> None:
    machine.change("service", "start", "embedding-code")
    machine.change("service", "start", "asr")
    rows = {row["id"]: row for row in machine.status()["services"]}
    by_hand(machine, "DELETE FROM handles WHERE service = 'embedding-code'")
    found = [check for check in machine.quick("doctor").json["checks"] if check["level"] == "problem"]
    assert [check["name"] for check in found] == ["service embedding-code"]
    assert f"pid {rows['embedding-code']['pid']} " in found[0]["message"]
    command = re.match(r"`kill (\d+)` ends it", found[0]["hint"])
    assert command, found
    os.kill(int(command[1]), signal.SIGTERM)
    until(lambda: machine.quick("doctor").code == 0, "doctor to find nothing any more")
    assert set(machine.held()) == {"asr"}
    machine.change("service", "start", "embedding-code")
    machine.change("switch", "blank")
    machine.nothing_left()
