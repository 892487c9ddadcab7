"""A whole simulated machine under a real systemd: switches, kill -9 in the middle of one, and recover."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sim]


def units(scope: str, state: str = "active") -> set[str]:
    """Ids of the services whose units are in `state`."""
    words = ["systemctl", *(["--user"] if scope == "user" else []), "list-units", "--plain", "--no-legend"]
    done = subprocess.run([*words, f"--state={state}", "gpumod-*.service"], capture_output=True, text=True, check=True)
    return {line.split()[0].removeprefix("gpumod-").split(".")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("scope", ["system", "user"])
def test_switch_kill_recover(machine: Machine, until: Callable[..., Any], scope: str) -> None:
    machine.ok("settings", "set", "supervisor", f"systemd-{scope}")
    machine.change("switch", "code")
    machine.whole("code")
    assert units(scope) == set(machine.states()) - members(machine)
    for service in machine.states():
        machine.ask(service)

    machine.fault("hyde", "slow-start", 200.0)
    process = machine.begin("switch", "rag")
    until(lambda: machine.sql("SELECT 1 FROM events WHERE kind = 'spawned' AND subject = 'hyde'"), "hyde to be spawned")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    machine.clear()
    refused = machine.quick("switch", "code")
    assert (refused.code, refused.error["code"]) == (7, "interrupted-run")
    assert "hyde" in units(scope)  # what was started goes on
    machine.ok("recover", "--resume")
    machine.whole("rag")
    assert units(scope) == set(machine.states()) - members(machine)

    machine.fault("asr", "slow-start", 200.0)
    process = machine.begin("switch", "speak")
    until(lambda: machine.sql("SELECT 1 FROM handles WHERE service = 'asr'"), "asr to be started")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    machine.clear()
    machine.change("recover", "--rollback")
    machine.whole("rag")

    machine.change("switch", "blank")
    machine.nothing_left()
    assert units(scope) == set()
    assert units(scope, "failed") == set()


def members(machine: Machine) -> set[str]:
    """Services that live in another one's process."""
    return {row[0] for row in machine.sql("SELECT service FROM handles WHERE supervisor = 'host'")}


def test_both_managers_and_plain_processes_at_once(machine: Machine) -> None:
    machine.ok("service", "edit", "embedding", "--run-with", "systemd-system")
    machine.ok("service", "edit", "hyde", "--run-with", "systemd-user")
    machine.change("switch", "rag")
    machine.whole("rag")
    assert units("system") == {"embedding"}
    assert units("user") == {"hyde"}
    assert len(machine.states()) > 2
    machine.change("switch", "blank")
    machine.nothing_left()


def test_a_new_template_restarts_nothing_and_is_shown(machine: Machine) -> None:
    machine.ok("settings", "set", "supervisor", "systemd-user")
    machine.change("service", "start", "hyde")
    assert machine.ok("service", "show", "hyde").json["drift"] == []
    row = next(row for row in machine.status()["services"] if row["id"] == "hyde")
    folder = machine.home / "templates"
    folder.mkdir()
    (folder / "vllm.service.j2").write_text('{% extends "unit.service.j2" %}{% block service %}Nice=5\n{% endblock %}')
    shown = machine.ok("service", "unit", "hyde").json
    assert "+Nice=5" in shown["difference"]
    assert not shown["edited"]
    assert machine.ok("service", "show", "hyde").json["drift"] == ["unit"]
    assert {row["id"]: row["drift"] for row in machine.status()["services"] if row["drift"]} == {"hyde": ["unit"]}
    found = machine.quick("doctor").json["checks"]
    assert [check["name"] for check in found if "its unit" in check["message"]] == ["service hyde"]
    machine.change("service", "start", "hyde")  # it is up: nothing to do
    assert next(r for r in machine.status()["services"] if r["id"] == "hyde")["pid"] == row["pid"]
    machine.change("service", "restart", "hyde")
    assert machine.ok("service", "show", "hyde").json["drift"] == []
    pid = next(r for r in machine.status()["services"] if r["id"] == "hyde")["pid"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5


@pytest.mark.parametrize("scope", ["system", "user"])
@pytest.mark.parametrize("name", ["nicer.j2", "alone.j2"])
def test_the_documentations_templates_start_services(machine: Machine, scope: str, name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "templates.md").read_text()
    (text,) = re.findall(rf"`{re.escape(name)}`:\n\n```jinja\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    machine.ok("settings", "set", "supervisor", f"systemd-{scope}")
    machine.quick("template", "edit", "own.service.j2", "-f", "-", stdin=text)
    machine.ok("service", "edit", "tts", "--unit-template", "own.service.j2")
    machine.change("service", "start", "tts")
    machine.ask("tts")
    unit = machine.ok("service", "unit", "tts").json
    assert (unit["there"], unit["difference"], unit["template"]) == (True, "", "own.service.j2")
    pid = next(row["pid"] for row in machine.status()["services"] if row["id"] == "tts")
    assert os.getpriority(os.PRIO_PROCESS, pid) == (5 if name == "nicer.j2" else 0)
    words = ["systemd-analyze", f"--{scope}", "verify", unit["path"]]
    told = subprocess.run(words, capture_output=True, text=True).stderr
    assert [line for line in told.splitlines() if "gpumod-" in line] == []
    machine.change("service", "stop", "tts")


def test_logs_are_followed_over_a_restart(machine: Machine, until: Callable[..., Any]) -> None:
    machine.ok("settings", "set", "supervisor", "systemd-user")
    machine.change("service", "start", "hyde")
    argv = [word for word in machine.argv("service", "logs", "hyde", "-f") if word != "--json"]
    file = machine.folder / "followed"
    with file.open("w") as out:
        process = subprocess.Popen(argv, stdout=out)
    try:
        until(lambda: "startup complete" in file.read_text(), "the first run to be shown")
        machine.change("service", "restart", "hyde")
        until(lambda: file.read_text().count("startup complete") > 1, "the second run to be shown")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_crash_is_told_with_the_log_of_the_journal(machine: Machine) -> None:
    machine.ok("settings", "set", "supervisor", "systemd-user")
    machine.fault("hyde", "oom-at-start")
    done = machine.change("service", "start", "hyde", code=6)
    assert done.error["code"] == "out-of-memory", done
    assert done.error["details"]["log"]
    machine.clear()
    machine.change("service", "start", "hyde")
    lines = machine.ok("service", "logs", "hyde").json
    assert lines["path"] is None
    assert any("Uvicorn running" in line or "startup complete" in line for line in lines["lines"]), lines
