"""`gpumod watch` on the simulated machine: real processes that end by themselves are there again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim


def kill(machine: Machine, service: str) -> int:
    row: Any = next(row for row in machine.status()["services"] if row["id"] == service)
    os.kill(row["pid"], signal.SIGKILL)
    return int(row["pid"])


def test_what_was_killed_is_there_again(machine: Machine, until) -> None:
    machine.change("service", "start", "tts")
    machine.ok("mode", "create", "talk", "--services", "asr")
    machine.change("switch", "talk")
    assert machine.ok("watch", "--once").json["mended"] == []
    pid = kill(machine, "asr")
    until(lambda: machine.states().get("asr") == "failed", "its end to be seen")
    seen = machine.ok("watch", "--once").json
    (done,) = seen["mended"]
    assert (done["what"], done["subject"]) == ("restart", "asr")
    assert "signal 9" in done["why"]
    assert seen["whole"]
    assert machine.states() == {"asr": "running"}
    machine.ask("asr")
    assert next(row["pid"] for row in machine.status()["services"] if row["id"] == "asr") != pid
    assert machine.ok("history", "list").json["runs"][0]["command"] == "watch: restart asr"


@pytest.mark.slow
def test_it_goes_on_until_it_is_asked_to_end(machine: Machine, until) -> None:
    machine.ok("settings", "set", "watch_interval_s", "1")
    machine.ok("mode", "create", "talk", "--services", "asr,embedding")
    machine.change("switch", "talk")
    process = machine.begin("watch")
    for _ in range(2):
        kill(machine, "asr")
        until(lambda: machine.states().get("asr") == "running", "it to be restarted")
        until(lambda: machine.status()["busy"] is None, "that to be done")
        machine.ok("service", "stop", "embedding")
        machine.ok("service", "start", "embedding")
    shown = machine.begin(argv=[word for word in machine.argv("watch") if word != "--json"])
    said = machine.said(machine.started.index(shown))
    until(lambda: said.read_text() == "watching mode talk; Ctrl-C ends it\n", "it to say that it is at work")
    shown.send_signal(signal.SIGTERM)
    assert machine.end(shown).code == 0
    process.send_signal(signal.SIGTERM)
    outcome = machine.end(process)
    assert outcome.code == 0, outcome
    looks = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [done["subject"] for look in looks for done in look["mended"]] == ["asr", "asr"]
    machine.whole("talk")


@pytest.mark.slow
def test_a_change_by_a_person_is_not_disturbed(machine: Machine, until) -> None:
    machine.ok("settings", "set", "watch_interval_s", "1")
    machine.ok("mode", "create", "talk", "--services", "asr")
    machine.change("switch", "talk")
    process = machine.begin("watch")
    for mode in ("blank", "talk", "blank"):
        machine.change("switch", mode)
        machine.whole(mode)
    process.send_signal(signal.SIGINT)
    outcome = machine.end(process)
    assert (outcome.code, outcome.stdout) == (0, ""), outcome
    machine.nothing_left()


def test_where_no_unit_of_it_is_there_is_none_to_remove(machine: Machine) -> None:
    """With systemd and without, whatever keeps the services."""
    unit = machine.ok("watch", "--uninstall").json["unit"]
    assert (unit["installed"], unit["changed"]) == (False, False)


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="it would be installed")
def test_without_systemd_the_way_out_is_one_for_it(machine: Machine) -> None:
    for manager in ("user", "system"):
        error = machine.quick("watch", "--install", "--manager", manager).error
        assert "supervisor" not in error["hint"]
        assert "`gpumod watch --once` from cron" in error["hint"]
