"""One changer for the whole machine: users with homes of their own on one card, which a stand-in for NVML tells."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.nvml.place import shared_folder
from tests.nvml.driver import LIBRARY, build
from tests.systemd.users import User

pytestmark = pytest.mark.systemd

SLOW = """
import http.server, os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
LOCK = Path("/run/lock/gpumod/gpumod.lock")


class OnTheCard(User):
    """A user whose gpumod reads the one card. The mode `slow` does not come up before the file `go` is there."""

    def __init__(self, name: str, env: dict[str, str], port: int) -> None:
        super().__init__(name)
        self.env = env
        self.gpumod("init", "--yes")
        self.go = Path(env["NVML_STANDIN"], "go")
        command = [sys.executable, "-I", "-S", str(self.go.with_name("slow.py")), str(self.go), "{port}"]
        words = ("service", "add", "--id", f"{name}s", "--driver", "fastapi", "--port", str(port), "--vram-mb", "0")
        self.gpumod(*words, "--health-endpoint", "/", "--set", f"command={json.dumps(command)}")
        self.gpumod("mode", "create", "slow", "--services", f"{name}s")

    def gpumod(self, *words: str, code: int | None = 0, as_root: bool = False, **env: str) -> Any:
        return super().gpumod(*words, code=code, as_root=as_root, **self.env, **env)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start the program, and go on."""
        return subprocess.Popen(
            self.argv(*words), env=self.environ(self.env), cwd="/", stdout=subprocess.PIPE, text=True
        )


@pytest.fixture
def card() -> Iterator[dict[str, str]]:
    """What makes a gpumod read the card."""
    folder = Path(tempfile.mkdtemp(prefix="gpumod-card-"))
    (folder / "cards").write_text("gpu 0 24564 0 0 8 GPU-one RTX 4090\n")
    (folder / "slow.py").write_text(SLOW)
    (folder / LIBRARY).write_bytes((build() / LIBRARY).read_bytes())
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    yield {"NVML_STANDIN": str(folder), "LD_LIBRARY_PATH": str(folder), "GPUMOD_GPU_PROBE": "nvml"}
    shutil.rmtree(folder)


@pytest.fixture
def two(card: dict[str, str]) -> Iterator[tuple[OnTheCard, OnTheCard]]:
    users = OnTheCard("ann", card, 7901), OnTheCard("bob", card, 7902)
    yield users
    for user in users:
        user.forget(units=False)


def wait_for(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def holds(user: User) -> bool:
    try:
        return bool(json.loads(LOCK.read_text())["user"] == user.name)
    except (OSError, ValueError):
        return False


def test_the_second_user_is_told_who_is_at_work(two: tuple[OnTheCard, OnTheCard]) -> None:
    ann, bob = two
    assert shared_folder() == LOCK.parent
    first = ann.begin("switch", "slow")
    wait_for(lambda: holds(ann))
    assert stat.S_IMODE(LOCK.stat().st_mode) == 0o666
    assert stat.S_IMODE(LOCK.parent.stat().st_mode) == 0o1777
    began = time.monotonic()
    error = bob.gpumod("switch", "slow", code=5)["error"]
    assert first.poll() is None, "it was to be still at work"
    assert error["code"] == "machine-busy"
    assert error["message"] == "ann is changing this machine: switch slow"
    assert f"process {first.pid}, home {ann.home}, since " in error["why"]
    assert time.monotonic() - began < 20
    ann.go.touch()
    stdout, _ = first.communicate(timeout=60)
    assert first.returncode == 0, stdout
    bob.gpumod("switch", "slow")
    assert ann.pid("anns")  # what is another home's is nobody else's to stop
    for user in two:
        user.gpumod("switch", "blank")


def test_of_two_that_begin_at_once_one_wins(two: tuple[OnTheCard, OnTheCard]) -> None:
    LOCK.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        LOCK.parent.rmdir()  # as after a boot: the first one makes it anew
    both = [user.begin("switch", "slow") for user in two]
    wait_for(lambda: any(process.poll() is not None for process in both))
    two[0].go.touch()
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 5], documents
    (error,) = [document["error"] for document in documents if "plan" not in document]
    assert error["code"] == "machine-busy"
    assert error["details"]["holder"]["user"] in ("ann", "bob")
    for user in two:
        user.gpumod("switch", "blank")


def test_a_user_that_is_killed_hinders_nobody_else(two: tuple[OnTheCard, OnTheCard]) -> None:
    ann, bob = two
    first = ann.begin("switch", "slow")
    wait_for(lambda: ann.run("pgrep", "-f", "slow.py").stdout)  # its service is starting
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    bob.go.touch()
    bob.gpumod("switch", "slow")
    assert ann.gpumod("switch", "blank", code=7)["error"]["code"] == "interrupted-run"
    ann.gpumod("recover", "--rollback")
    for user in two:
        user.gpumod("switch", "blank")


def test_where_the_usual_place_is_roots_alone_all_take_the_next(two: tuple[OnTheCard, OnTheCard]) -> None:
    place = LOCK.parent.parent
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(0o755)
    try:
        for user in two:
            user.gpumod("switch", "blank")
        assert (Path("/tmp/gpumod") / LOCK.name).stat().st_uid == two[0].entry.pw_uid
        assert shared_folder() == Path("/tmp/gpumod")
    finally:
        place.chmod(mode)
