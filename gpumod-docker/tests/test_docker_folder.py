"""What is kept in the home for a container: notes that do not outlive what they tell, and files that it can read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gpumod.api import Failed, LaunchFile, MachineLacks, Settings
from gpumod_docker.folder import ServiceFolder
from gpumod_docker.supervisor import PULL, DockerSupervisor

Note = Callable[[Mapping[str, Any]], None]


class Now:
    """The real clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is waited for")


def test_a_pull_that_nobody_is_at_any_more_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that pulled was killed, and left its note: the log is the container's again."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    supervisor = DockerSupervisor(tmp_path, "0123456789ab", Settings(), Now())
    folder = ServiceFolder(tmp_path, "svc")
    folder.note(PULL, {"text": "pulling a: 1 of 9 MiB", "pid": os.getpid()})
    assert supervisor.logs("svc", 5) == ("pulling a: 1 of 9 MiB",)
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    for left in ({"pid": killed.pid}, {}, {"pid": "x"}):
        folder.note(PULL, {"text": "pulling a: 1 of 9 MiB", **left})
        with pytest.raises(MachineLacks) as asked:
            supervisor.logs("svc", 5)
        assert asked.value.code == "no-engine"


def test_a_thread_that_is_left_behind_notes_nothing(tmp_path: Path) -> None:
    """It would be this process's, which lives: no log would be shown any more but that of the pull."""
    folder = ServiceFolder(tmp_path, "svc")
    for _ in range(5):
        begun, done = threading.Event(), threading.Event()
        with folder.noting(PULL) as note:

            def pull(note: Note, begun: threading.Event, done: threading.Event) -> None:
                while not done.is_set():
                    note({"text": "pulling", "pid": os.getpid()})
                    begun.set()

            left = threading.Thread(target=pull, args=(note, begun, done))
            left.start()
            begun.wait()
            assert folder.noted(PULL)["text"] == "pulling"
        assert folder.noted(PULL) == {}
        time.sleep(0.01)
        done.set()
        left.join()
        assert folder.noted(PULL) == {}


def test_what_cannot_be_noted_is_told(tmp_path: Path) -> None:
    (tmp_path / "containers").write_text("in the way")
    with pytest.raises(Failed) as caught:
        ServiceFolder(tmp_path, "svc").note(PULL, {"text": "x"})
    assert caught.value.code == "cannot-write"
    (tmp_path / "services").write_text("in the way")
    with pytest.raises(Failed) as caught:
        ServiceFolder(tmp_path, "svc").prepare()
    assert caught.value.code == "cannot-write"


def test_a_home_may_be_called_as_the_records_are(tmp_path: Path) -> None:
    """A container that runs as somebody else reads the service's files, wherever the home is."""
    folder = ServiceFolder(tmp_path / ".run" / "home", "svc")
    folder.write([LaunchFile(name="models.ini", content="[a]")])
    (folder.path / ".run").mkdir(mode=0o700)
    folder.share()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder.path, *folder.path.iterdir())}
    assert modes == {"svc": 0o755, "models.ini": 0o644, ".run": 0o700}
