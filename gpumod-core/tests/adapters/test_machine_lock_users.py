"""The machine's lock between users: whoever comes first, with whatever umask, in whatever folder that all may use."""

from __future__ import annotations

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.lock import LOCK_FILE, Holder, MachineLock
from gpumod.adapters.nvml.place import shared_folder
from gpumod.domain.errors import Busy, GpumodError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # what is forked does next to nothing
]

ANN, BOB, ROOT = 54_321, 54_322, 0
UMASKS = (0o022, 0o077)


class Process:
    """A forked process of another user: `act` runs in it, with a function that tells its caller something."""

    def __init__(self, uid: int, umask: int, act: Callable[[Callable[[Any], None]], None]) -> None:
        out, into = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(into)
            self._told = os.fdopen(out, encoding="utf-8")
            return
        status = 1
        try:
            os.close(out)
            with os.fdopen(into, "w", encoding="utf-8") as told:
                os.umask(umask)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                act(lambda value: print(json.dumps(value), file=told, flush=True))
                status = 0
        finally:
            os._exit(status)

    def told(self) -> Any:
        """What it tells next; None where it has ended."""
        line = self._told.readline()
        return json.loads(line) if line else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._told.close()


def holding(folder: Path) -> Callable[[Callable[[Any], None]], None]:
    """Takes the lock, says so, and keeps it until killed; else says why not."""

    def act(tell: Callable[[Any], None]) -> None:
        try:
            with MachineLock(folder).acquire(Holder.current("switch rag", Path("/home/somebody"))):
                tell("held")
                time.sleep(600)
        except GpumodError as error:
            tell([error.code, error.info.message, error.info.why])

    return act


@contextmanager
def held(folder: Path, uid: int, umask: int = 0o022) -> Iterator[Process]:
    process = Process(uid, umask, holding(folder))
    try:
        assert process.told() == "held"
        yield process
    finally:
        process.kill()


def tried(folder: Path, uid: int, umask: int = 0o022) -> Any:
    """What comes of it when this user tries: "held", or code, message and reason."""
    process = Process(uid, umask, holding(folder))
    said = process.told()
    process.kill()
    return said


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder like /tmp: all may write into it, and nobody may remove another's."""
    folder = Path(tempfile.mkdtemp(prefix="gpumod-lock-", dir="/var/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("umask", UMASKS)
@pytest.mark.parametrize(("first", "second"), [(ROOT, ANN), (ANN, ROOT), (ANN, BOB)])
def test_whoever_comes_first_everybody_can_use_it(place: Path, first: int, second: int, umask: int) -> None:
    folder = place / "gpumod"
    assert tried(folder, first, umask) == "held"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / LOCK_FILE).stat().st_mode) == 0o666
    assert (folder / LOCK_FILE).stat().st_uid == first
    for user in (second, first, second):
        with held(folder, user, umask):
            pass
    assert [path.name for path in place.iterdir()] == ["gpumod"]  # no draft is left


@pytest.mark.parametrize(("holder", "other"), [(ROOT, ANN), (ANN, ROOT), (ANN, BOB)])
def test_the_other_user_is_told_who_and_a_killed_one_frees_it(place: Path, holder: int, other: int) -> None:
    with held(place / "gpumod", holder) as process:
        code, message, why = tried(place / "gpumod", other)
        assert code == "machine-busy"
        assert message.startswith(
            ("root" if holder == ROOT else f"user {holder}") + " is changing this machine: switch"
        )
        assert f"process {process.pid}, home /home/somebody" in why
        with pytest.raises(Busy) as caught, MachineLock(place / "gpumod").acquire(Holder.current("x", place)):
            pass
        assert caught.value.info.details["holder"]["pid"] == process.pid
    assert tried(place / "gpumod", other) == "held"


def test_a_user_whose_group_may_not_write_into_a_folder_is_told(place: Path) -> None:
    folder = place / "closed"
    folder.mkdir(mode=0o755)
    code, message, why = tried(folder, ANN)
    assert (code, why) == ("bad-lock", "Permission denied")
    assert str(folder / LOCK_FILE) in message
    assert tried(folder, ROOT) == "held"
    assert tried(folder, ANN) == "held"  # the file is there now, and everybody's


def test_folders_above_can_be_entered_by_everybody(place: Path) -> None:
    assert tried(place / "deep" / "er" / "gpumod", ROOT, 0o077) == "held"
    assert tried(place / "deep" / "er" / "gpumod", ANN, 0o077) == "held"


def test_one_that_was_killed_while_it_made_the_file_is_mended(place: Path) -> None:
    folder = place / "gpumod"
    assert tried(folder, ROOT) == "held"
    (folder / LOCK_FILE).chmod(0o600)  # between making it and opening it for all
    assert tried(folder, ANN)[0] == "bad-lock"
    assert tried(folder, ROOT) == "held"
    assert tried(folder, ANN) == "held"


def test_all_at_once_from_nothing(place: Path) -> None:
    """Users of all kinds make folder and file at the same moment: one is first, and none meets anything half made."""
    for _ in range(15):
        shutil.rmtree(place / "gpumod", ignore_errors=True)
        users = [(uid, umask) for uid in (ROOT, ANN, BOB) for umask in UMASKS]
        processes = [Process(uid, umask, holding(place / "gpumod")) for uid, umask in users]
        said = [process.told() for process in processes]
        for process in processes:
            process.kill()
        assert said.count("held") == 1, said
        assert {answer[0] for answer in said if answer != "held"} == {"machine-busy"}, said


def test_another_users_file_or_link_in_its_place_is_refused(place: Path) -> None:
    (place / "real").mkdir(mode=0o777)
    link = place / "link"
    link.symlink_to(place / "real")
    os.chown(link, ANN, ANN, follow_symlinks=False)
    assert tried(link, BOB)[0] == "bad-lock"
    (place / "file").write_text("mine")
    assert tried(place / "file", ANN)[0] == "bad-lock"
    assert (place / "file").read_text() == "mine"


def test_the_place_is_the_same_for_every_user() -> None:
    folders = []
    for uid in (ROOT, ANN, BOB):
        process = Process(uid, 0o077, lambda tell: tell(str(shared_folder())))
        folders.append(process.told())
        process.kill()
    assert len(set(folders)) == 1, folders


HIDDEN = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_machine_lock_users as t
folder = Path(sys.argv[1])
with t.held(folder, t.ROOT) as process:
    code, message, why = t.tried(folder, t.ANN)
    assert code == "machine-busy", (code, message, why)
    assert f"process {{process.pid}}, home /home/somebody" in why, why
    record = t.Holder.model_validate_json((folder / t.LOCK_FILE).read_text())
    ask = t.Process(t.ANN, 0o022, lambda tell: tell([record.alive]))
    assert ask.told() == [None]
    ask.kill()
"""


def test_a_holder_that_proc_hides_is_named(place: Path) -> None:
    script = HIDDEN.format(path=[str(Path(__file__).parent), *sys.path])
    command = 'mount -t proc -o hidepid=2 proc /proc || exit 77; exec "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", command, sys.executable, "-c", script, str(place)],
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip(f"/proc cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def test_a_holder_in_another_container_is_named(place: Path) -> None:
    """Of two that share the folder: its pid means nothing here, but the kernel says that somebody has the lock."""
    code = f"""
import sys, time
from pathlib import Path
sys.path[:0] = {sys.path!r}
from gpumod.adapters.lock import Holder, MachineLock
with MachineLock(Path({str(place)!r})).acquire(Holder.current("switch rag", Path("/home/inside"))):
    print("held", flush=True)
    time.sleep(600)
"""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as inside:
        assert inside.stdout is not None
        assert inside.stderr is not None
        if inside.stdout.readline() != "held\n":
            pytest.skip(f"no namespace can be made here: {inside.stderr.read()}")
        with pytest.raises(Busy) as caught, MachineLock(place).acquire(Holder.current("x", place)):
            pass
        assert "of another container, home /home/inside" in caught.value.info.why
        assert MachineLock(place).holder() is None  # whether it lives cannot be seen without trying
        inside.kill()
    give_up = time.monotonic() + 20
    while True:  # what was inside ends a moment after unshare
        try:
            with MachineLock(place).acquire(Holder.current("x", place)):
                break
        except Busy:
            assert time.monotonic() < give_up
            time.sleep(0.02)
