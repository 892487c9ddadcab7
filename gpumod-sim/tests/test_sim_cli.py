"""`gpumod sim ...`, as the parent program calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import click.testing
import pytest

from gpumod.api import Failed, MachineLacks, Settings, UnknownName, UsageError
from gpumod_sim import faults, procs
from gpumod_sim.cli import sim
from gpumod_sim.machine import write_json

ERRORS = (Failed, MachineLacks, UnknownName, UsageError)


@dataclass
class Parent:
    folder: str | None
    json: bool = False

    def settings(self) -> Settings:
        return Settings(sim_machine=self.folder)


@pytest.fixture
def call(box):
    """Run a command in this process; its output. An error of the product is raised."""

    def run(*args, folder=box.machine.folder, as_json=False):
        runner = click.testing.CliRunner()
        result = runner.invoke(sim, args, obj=Parent(folder, as_json))
        if isinstance(result.exception, ERRORS):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_the_help_names_every_fault(call):
    assert set(faults.KINDS) <= set(call("fault", "--help").replace(",", " ").split())


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        write_json(str(tmp_path / "machine.json"), object())
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_as_json_is_the_public_contract(box, call):
    box.ledger.hold("a", {1: 2000}, ram_mb=300)
    expected = {
        "gpus": [
            {"index": 0, "name": "RTX 4090", "total_mb": 24564},
            {"index": 1, "name": "RTX 3090", "total_mb": 24576},
        ],
        "allocations": [{"pid": os.getpid(), "service": "a", "gpu": 1, "mb": 2000}],
        "ram": [{"pid": os.getpid(), "service": "a", "mb": 300}],
    }
    assert json.loads(call("ledger", "--json")) == json.loads(call("ledger", as_json=True)) == expected
    assert "GPU 1 RTX 3090: 2000 of 24576 MiB in use" in call("ledger")


@pytest.mark.parametrize("folder", [None, "/nowhere"])
def test_without_a_machine_each_says_so(call, folder):
    for args in (["ledger"], ["watch-ledger", "f"], ["fault"], ["foreign", "1"], ["speed"], ["lag"], ["ram"]):
        with pytest.raises(MachineLacks) as caught:
            call(*args, folder=folder)
        assert caught.value.code == "no-simulated-machine"
        assert "gpumod init --sim" in caught.value.info.hint


def test_faults_are_set_listed_and_cleared(box, call):
    call("fault", "chat", "leak", "700")
    call("fault", "chat", "hang")
    listed = json.loads(call("fault", "--json"))["faults"]
    assert listed == [
        {"service": "chat", "kind": "leak", "value": 700.0},
        {"service": "chat", "kind": "hang", "value": None},
    ]
    call("fault", "chat", "hang", "--clear")
    assert faults.value(box.machine, "chat", "hang") is None
    call("fault", "--clear")
    assert "no faults" in call("fault")
    for args, error in (
        (["chat", "odd"], UnknownName),
        (["chat"], UsageError),
        (["chat", "leak"], UsageError),
        (["chat", "hang", "3"], UsageError),
    ):
        with pytest.raises(error):
            call("fault", *args)


def test_a_foreign_process_is_named_and_can_be_stopped(box, call):
    started = json.loads(call("foreign", "4000", "--gpu", "1", "--name", "doom", "--json"))
    assert box.held(1) == {"foreign:doom": 4000}
    assert procs.name(started["pid"]) == "doom"
    with pytest.raises(Failed, match="has not"):
        call("foreign", "30000")
    with pytest.raises(UnknownName):
        call("foreign", "1", "--gpu", "7")
    with pytest.raises(UsageError):
        call("foreign", "1", "--name", "../x")
    with pytest.raises(UsageError):
        call("foreign")
    assert json.loads(call("foreign", "--stop", "--json")) == {"stopped": [started["pid"]]}
    os.waitpid(started["pid"], 0)


def test_the_numbers_of_the_machine(box, call):
    assert json.loads(call("speed", "80", "--json")) == {"speed": 80.0}
    call("lag", "0")
    assert json.loads(call("lag", "0.25", "--living", "--json")) == {"living_lag_s": 0.25}
    call("ram", "32000")
    assert (box.machine.speed(), box.machine.lag_s(), box.machine.living_lag_s()) == (80.0, 0.0, 0.25)
    assert box.ledger.total_mb(None) == 32000
    assert json.loads(call("ram", "0", "--json")) == {"ram_mb": None}
    for name, value in (("speed", "0"), ("speed", "nan"), ("ram", "inf")):
        with pytest.raises(UsageError):
            call(name, value)


def test_a_second_signal_does_not_keep_a_holder_from_leaving(box, until):
    for pause_s in (0.0002, 0.0004, 0.0006, 0.001, 0.0015, 0.002):
        holder = box.start("../libexec/game", "a", "0", "4000")
        until(lambda: "held" in box.log("svc"))
        holder.terminate()
        time.sleep(pause_s)  # a service manager's, and the parent's, somewhere in what the first one does
        holder.terminate()
        assert holder.wait(10) == 0
        until(lambda: box.ledger.used_mb(0) == 0)


def test_watch_ledger_follows_every_change(box, tmp_path, until):
    code = (
        f"MACHINE = {box.machine.folder!r}\n"
        "from gpumod_sim.cli import sim; from gpumod.api import Settings\n"
        "class Parent:\n    json = True\n    def settings(self): return Settings(sim_machine=MACHINE)\n"
        "sim(obj=Parent())"
    )
    target = tmp_path / "watch.jsonl"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, "watch-ledger", str(target)], stdout=subprocess.PIPE, text=True
    )
    box.started.append(watcher)
    until(lambda: target.exists() and target.read_text())
    holder = box.start("../libexec/game", "a", "0", "4000")
    until(lambda: '"hold"' in target.read_text())
    changes = box.folder / "changes.jsonl"
    changes.rename(box.folder / "changes.jsonl.1")  # as when it has grown too long
    holder.kill()
    holder.wait()
    until(lambda: '"forgotten"' in target.read_text())
    watcher.send_signal(signal.SIGTERM)
    output, _ = watcher.communicate(timeout=10)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["event"], row["used_mb"]["0"]) for row in rows] == [
        ("begin", 0),
        ("hold", 4000),
        ("died", 4000),
        ("forgotten", 0),
    ]
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert json.loads(output)["changes"] == 3
