"""A tour that is ended in its middle leaves no process and no home behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_S = 100
TOUR = (sys.executable, "-m", "gpumod", "--json", "demo")


def processes_of(folder: Path) -> list[int]:
    """The living processes whose command line or environment speaks of a home in `folder`."""
    found, mine = [], os.fsencode(folder / "gpumod-demo-")
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            if mine in told:
                found.append(pid)
    return found


@pytest.fixture
def begin(tmp_path: Path, until) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Begins a tour, up to its first switch. The usual ports are taken, so that it gets some that nobody else uses."""
    with contextlib.ExitStack() as stack:
        for port in range(7800, 7830):
            sock = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                sock.listen()

        def started(*before: str) -> subprocess.Popen[bytes]:
            environ = os.environ | {"TMPDIR": str(tmp_path)}
            # whoever runs the tests may have had them ignore a hang-up
            words = [*(before or ("env", "--default-signal=HUP")), *TOUR]
            tour = subprocess.Popen(words, env=environ, stdout=subprocess.PIPE)
            stack.callback(tour.kill)
            until(lambda: list(tmp_path.glob("gpumod-demo-*/gpumod.db")), "its home to be made", PATIENCE_S)
            return tour

        yield started
        for pid in processes_of(tmp_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_tour_that_is_ended_cleans_up(begin, tmp_path: Path, until, number: signal.Signals) -> None:
    tour = begin()
    until(lambda: list(tmp_path.glob("gpumod-demo-*/services/glm-code")), "its first switch", PATIENCE_S)
    for _ in range(2):  # the second one does not end the cleaning
        tour.send_signal(number)
    stdout, _ = tour.communicate(timeout=PATIENCE_S)
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert tour.returncode == 128 + number
    assert json.loads(stdout)["error"]["code"] == "interrupted"
    assert json.loads(stdout)["error"]["message"] == f"ended by {number.name}"


def test_a_hang_up_stays_ignored_under_nohup(begin, tmp_path: Path, until) -> None:
    tour = begin("nohup")
    tour.send_signal(signal.SIGHUP)
    until(lambda: list(tmp_path.glob("gpumod-demo-*/services/glm-code")), "the tour to go on", PATIENCE_S)
    tour.send_signal(signal.SIGTERM)
    tour.communicate(timeout=PATIENCE_S)
    assert tour.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
