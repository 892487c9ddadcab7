"""`switch --detach`: it goes on without the terminal, and is followed from another."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.machine.terminals import Terminal

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]


@pytest.fixture
def slow(machine: Machine) -> Machine:
    """A machine on which a switch to `speech` takes some seconds."""
    machine.ok("mode", "create", "speech", "--services", "tts")
    machine.fault("tts", "slow-start", 200.0)
    return machine


def test_it_outlives_its_terminal_and_is_followed_to_the_end(slow: Machine) -> None:
    terminal = Terminal(slow.argv("switch", "speech", "--detach"))
    assert terminal.end() == 0, terminal.told  # and with the leader of its session, the terminal hangs up
    begun = json.loads(terminal.told[terminal.told.index("{\n") :])
    assert (begun["status"], begun["mode"], begun["steps"]) == ("running", "speech", [])
    assert [step["service"] for step in begun["plan"]["steps"]] == ["tts", "*"]
    assert slow.ok("history", "show").json["run"]["status"] == "running"
    busy = slow.quick("switch", "blank")
    assert busy.code == 5, busy
    followed = slow.gpumod("history", "show", begun["run_id"], "--follow")
    assert followed.code == 0, followed
    assert followed.json["run"]["status"] == "done"
    assert "1 start tts: done" in followed.stderr
    slow.whole("speech")


def test_who_follows_and_goes_away_ends_nothing(slow: Machine, until) -> None:
    slow.fault("tts", "slow-start", 600.0)  # the looker needs a while, too
    assert slow.gpumod("switch", "speech", "--detach").code == 0
    looker = slow.begin("history", "show", "-f")
    until(lambda: "1 start tts" in slow.said(0).read_text(), "the looker to see it")
    looker.send_signal(signal.SIGINT)
    assert slow.end(looker).code == 130
    assert slow.gpumod("history", "show", "-f").code == 0
    slow.whole("speech")


def test_one_that_fails_is_rolled_back_and_says_so_to_who_follows(machine: Machine) -> None:
    machine.ok("mode", "create", "speech", "--services", "tts")
    machine.fault("tts", "oom-at-start")
    assert machine.gpumod("switch", "speech", "--detach").code == 0
    followed = machine.gpumod("history", "show", "--follow")
    assert followed.code == 6, followed
    assert followed.json["error"]["code"] == "out-of-memory"
    assert machine.states() == {}


def test_what_does_not_begin_is_told_at_once(machine: Machine) -> None:
    machine.ok("mode", "create", "big", "--services", "embedding-code,glm-code,reranker")
    refused = machine.gpumod("switch", "big", "--detach")
    assert (refused.code, refused.json["status"], refused.error["code"]) == (3, "refused", "does-not-fit")
    unknown = machine.gpumod("switch", "bog", "--detach")
    assert (unknown.code, unknown.error["code"]) == (4, "unknown-mode")
    nothing = machine.gpumod("switch", "blank", "--detach")
    assert (nothing.code, nothing.json["status"]) == (0, "nothing-to-do")
    shown = machine.gpumod("switch", "code", "--detach", "--dry-run")
    assert (shown.code, shown.json["dry_run"]) == (0, True)
    assert machine.states() == {}
