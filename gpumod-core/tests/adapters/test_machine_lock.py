"""The machine's lock between real processes."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters.lock import LOCK_FILE, Holder, MachineLock
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import Busy, Failed

HOLD = """
import subprocess, sys, time
from pathlib import Path
from gpumod.adapters.lock import Holder, MachineLock
with MachineLock(Path(sys.argv[1])).acquire(Holder.current("switch code", Path("/home/ann"))):
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, and has a child of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield process
        process.kill()
        os.kill(child, signal.SIGKILL)


def mine() -> Holder:
    return Holder.current("test", Path("/home/me"))


def test_it_is_free_again_afterwards(tmp_path: Path) -> None:
    lock = MachineLock(tmp_path / "deep" / "machine")
    for _ in range(3):
        assert lock.holder() is None
        with lock.acquire(mine()):
            holder = lock.holder()
            assert holder is not None
            assert (holder.pid, holder.command, holder.home) == (os.getpid(), "test", "/home/me")
    with pytest.raises(ZeroDivisionError), lock.acquire(mine()):
        raise ZeroDivisionError
    with lock.acquire(mine()):
        pass
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o666
    assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o1777


def test_the_same_process_does_not_get_it_twice(tmp_path: Path) -> None:
    with MachineLock(tmp_path).acquire(mine()), pytest.raises(Busy), MachineLock(tmp_path).acquire(mine()):
        pass


def test_a_second_one_is_told_who_at_once(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(Busy) as caught, MachineLock(tmp_path).acquire(mine()):
        pass
    assert time.monotonic() - begun < 2
    info = caught.value.info
    assert info.code == "machine-busy"
    assert "switch code" in info.message
    assert f"process {other.pid}, home /home/ann" in info.why
    assert info.details["holder"]["pid"] == other.pid


def test_a_killed_holder_frees_it_though_its_child_lives(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    lock = MachineLock(tmp_path)
    assert lock.path.read_text() != ""  # the dead one's record is still there, and is not believed
    assert lock.holder() is None
    with lock.acquire(mine()):
        assert lock.holder() is not None


def test_a_record_of_a_dead_or_lying_holder_is_not_believed(tmp_path: Path) -> None:
    lock = MachineLock(tmp_path)
    with lock.acquire(mine()):
        real = json.loads(lock.path.read_text())
        for lie in (
            "",
            "{",
            "[]",
            "\xff",
            json.dumps(real | {"pid_started": 1}),
            json.dumps(real | {"user": "root\n\x1b[31m"}),
            json.dumps(real | {"more": 1}),
        ):
            lock.path.write_text(lie)
            with pytest.raises(Busy) as caught, lock.acquire(mine()):
                pass
            assert caught.value.info.why == "it did not say who"


def test_links_and_odd_files_are_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cases = {
        "link": lambda path: path.symlink_to(victim),
        "hard": lambda path: path.hardlink_to(victim),
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
    }
    for name, make in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / LOCK_FILE)
        with pytest.raises(Failed) as caught, MachineLock(folder).acquire(mine()):
            pass
        assert caught.value.code == "bad-lock"
        assert MachineLock(folder).holder() is None
    assert victim.read_text() == "precious"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "x", Path("/proc/nothing")):
        with pytest.raises(Failed) as caught, MachineLock(folder).acquire(mine()):
            pass
        assert caught.value.code == "bad-lock"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's link")
def test_a_folder_that_is_another_users_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with MachineLock(link).acquire(mine()):  # our own link is ours to make
        pass
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(Failed), MachineLock(link).acquire(mine()):
        pass


def test_a_lock_file_that_was_removed_meanwhile_is_made_anew(tmp_path: Path) -> None:
    lock = MachineLock(tmp_path)
    with lock.acquire(mine()):
        pass
    lock.path.unlink()
    with lock.acquire(mine()), pytest.raises(Busy), lock.acquire(mine()):
        pass


@settings(deadline=None)
@given(command=st.text(max_size=600), home=st.text(st.characters(exclude_characters="\0"), max_size=50))
def test_any_command_can_hold(command: str, home: str) -> None:
    holder = Holder.current(command, Path(home))
    assert not has_control_characters(holder.command + holder.home)
    assert Holder.model_validate_json(holder.model_dump_json()).alive


MANY = """
import sys, time
from pathlib import Path
from gpumod.adapters.lock import Holder, MachineLock
from gpumod.domain.errors import Busy
folder = Path(sys.argv[1])
won = 0
deadline = time.monotonic() + 0.4
while time.monotonic() < deadline or not won:
    try:
        with MachineLock(folder).acquire(Holder.current("x", folder)):
            fresh = folder / "inside"
            fresh.touch(exist_ok=False)  # fails if another one is inside
            fresh.unlink()
            won += 1
    except Busy as busy:
        assert busy.exit_code == 5
print(won)
"""


@pytest.mark.slow
def test_one_at_a_time_among_many(tmp_path: Path) -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    won = [int(process.communicate(timeout=60)[0]) for process in others]
    assert [process.returncode for process in others] == [0] * 4
    assert all(won)


def test_on_a_full_disk_the_lock_holds_and_nobody_is_named(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from gpumod.adapters.lock import Holder, MachineLock
lock = MachineLock(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
with lock.acquire(Holder.current("switch", Path("/h"))):
    print(lock.holder())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "None\n", done.stderr
