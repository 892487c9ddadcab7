"""A command that waits for its word: it is there before it runs, and never runs for a gpumod that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpumod.cli.foreground import CANNOT_EXECUTE, KILLED, NOT_FOUND, Command


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_it_has_its_pid_and_environment_and_gives_its_exit_status(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = Command(["sh", "-c", f"echo $$ $CARD > {told}; exit 5"])
    pid = command.pid
    time.sleep(0.1)
    assert not told.exists()
    assert command.run({"CARD": "3"}, None) == 5
    assert told.read_text().split() == [str(pid), "3"]
    command.drop()


def test_it_has_the_signals_as_ever(tmp_path: Path) -> None:
    told = tmp_path / "told"
    look = "import signal, sys; print([signal.getsignal(n) for n in (2, 13, 15)], signal.pthread_sigmask(0, []))"
    assert Command([sys.executable, "-c", f"{look[:-1]}, file=open({str(told)!r}, 'w'))"]).run({}, None) == 0
    plain = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert told.read_text() == plain.stdout


def test_one_that_was_never_told_never_runs(tmp_path: Path) -> None:
    command = Command(["touch", str(tmp_path / "ran")])
    pid = command.pid
    command.drop()
    assert gone(pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["/no/such/program"], ["/"]])
def test_one_that_cannot_be_run_after_all(argv: list[str]) -> None:
    assert Command(argv).run({}, None) == (CANNOT_EXECUTE if argv == ["/"] else NOT_FOUND)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_before_it_runs_is_not_lost(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(["sleep", "60"])
    os.kill(command.pid, number)
    assert command.run({}, None) == KILLED + number


def test_when_gpumod_is_killed_first_it_never_runs(tmp_path: Path) -> None:
    script = (
        "import os, signal; from gpumod.cli.foreground import Command; "
        f"print(Command(['touch', {str(tmp_path / 'ran')!r}]).pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while not gone(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
