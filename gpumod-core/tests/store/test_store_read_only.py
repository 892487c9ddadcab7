"""Where nothing can be written: what is there is read, every change is refused, a full disk loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.errors import MachineLacks
from gpumod.domain.run import Event
from gpumod.domain.service import Service

pytestmark = pytest.mark.slow

EVENT = Event(at=1.0, kind="test", subject="it")
CHAT = Service(id="chat", driver="llamacpp", port=7800)


def test_opened_for_reading_only(path: Path) -> None:
    with open_store(path, read_only=True) as store:
        assert not store.writable
        assert store.services() == {"chat": CHAT}
        with pytest.raises(MachineLacks) as caught:
            store.put_service(CHAT, event=EVENT)
        assert caught.value.code == "read-only-home"


def test_for_reading_only_an_absent_database_is_an_empty_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "gpumod.db", read_only=True) as store:
        assert (store.services(), store.modes(), store.settings()) == ({}, {}, {})
        assert store.open_run() is None
        with pytest.raises(MachineLacks):
            store.put_setting("a", "b", event=EVENT)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_what_a_living_writer_wrote(path: Path) -> None:
    with open_store(path) as writer, open_store(path, read_only=True) as reader:
        writer.put_setting("a", "1", event=EVENT)
        assert reader.settings() == {"a": "1"}


READ_ONLY = """
    import sys
    from pathlib import Path
    from gpumod.adapters.store import open_store
    from gpumod.domain.errors import MachineLacks
    from gpumod.domain.run import Event
    with open_store(Path(sys.argv[1])) as store:
        print(list(store.services()), store.writable)
        try:
            store.put_setting("a", "b", event=Event(at=1, kind="k", subject="s"))
        except MachineLacks as error:
            print(error.code)
"""


@pytest.fixture
def read_only_home(path: Path) -> Iterator[Path]:
    path.chmod(0o444)
    path.parent.chmod(0o555)
    yield path
    path.parent.chmod(0o700)


def run_without_privilege(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` as somebody whom the modes of files keep out, which root is not."""
    argv = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(path)]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv")
        argv = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *argv]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_read_only_home_is_read(read_only_home: Path) -> None:
    done = run_without_privilege(READ_ONLY, read_only_home)
    assert done.stdout.split("\n") == ["['chat'] False", "read-only-home", ""], done.stderr
    assert sorted(file.name for file in read_only_home.parent.iterdir()) == ["gpumod.db", "gpumod.db.lock"]


@pytest.mark.parametrize("absent", ["other.db", "deeper/down/gpumod.db"])
def test_a_read_only_home_without_a_database_is_empty(read_only_home: Path, absent: str) -> None:
    done = run_without_privilege(READ_ONLY, read_only_home.parent / absent)
    assert done.stdout.split("\n") == ["[] False", "read-only-home", ""], done.stderr


def test_a_file_that_may_not_be_read_is_an_error(path: Path) -> None:
    path.chmod(0o000)
    done = run_without_privilege(READ_ONLY, path)
    assert "cannot be read" in done.stderr.splitlines()[-1]


FILL = """
def fill(folder):
    try:
        with (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass
"""


def on_a_full_disk(tmp_path: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a namespace of its own, with a file system of 400 kB on `tmp_path`, which it is told first.
    Code in it may `fill` that."""
    mount = f'mount -t tmpfs -o size=400k none "{tmp_path}" && exec "$@"'
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    argv = [*shell, sys.executable, "-W", "error", "-c", FILL + textwrap.dedent(code), str(tmp_path), *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_database_is_made_whole_or_not_at_all_on_a_nearly_full_disk(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        from gpumod.domain.run import Event
        path, writable = Path(sys.argv[1]) / "gpumod.db", set()
        for kb in range(390, 0, -15):
            ballast = path.with_name("ballast")
            ballast.write_bytes(b"x" * kb * 1024)
            with open_store(path) as store:
                assert store.services() == {}, kb
                writable.add(store.writable)
            ballast.unlink()
            with open_store(path) as store:  # there is room again
                store.put_setting("k", "x", event=Event(at=1, kind="k", subject="s"))
            for one in path.parent.glob("*"):
                one.unlink()
        assert writable == {False, True}
    """
    done = on_a_full_disk(tmp_path, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        from gpumod.domain.errors import MachineLacks
        from gpumod.domain.run import Event
        path = Path(sys.argv[1])
        with open_store(path / "gpumod.db") as store:
            for n in range(1000):
                try:
                    store.put_setting(f"k{n}", "x" * 4000, event=Event(at=n, kind="k", subject="s"))
                except MachineLacks as error:
                    print(error.code)
                    assert len(store.settings()) == len(store.events(2000)) == n
                    break
        (path / "ballast").write_bytes(b"")
        fill(path)
        with open_store(path / "gpumod.db") as store:
            assert len(store.settings()) == n
        with open_store(path / "new" / "gpumod.db") as store:
            print(len(store.settings()), store.writable)
            try:
                store.put_setting("k", "x", event=Event(at=1, kind="k", subject="s"))
            except MachineLacks as error:
                print(error.code)
    """
    done = on_a_full_disk(tmp_path, code)
    assert done.stdout.split() == ["disk-full", "0", "False", "disk-full"], done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_on_a_full_disk_what_a_killed_process_wrote_last_is_read(tmp_path: Path) -> None:
    code = """
        import os
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        from gpumod.domain.run import Event
        path = Path(sys.argv[1])
        store = open_store(path / "gpumod.db")
        store.put_setting("last", "x", event=Event(at=1, kind="k", subject="s"))
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
    """
    then = """
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        path = Path(sys.argv[1])
        assert (path / "gpumod.db-wal").stat().st_size > 0
        (path / "gpumod.db-shm").unlink()
        fill(path)
        with open_store(path / "gpumod.db") as store:
            print(dict(store.settings()), store.writable)
    """
    done = on_a_full_disk(tmp_path, code, FILL + textwrap.dedent(then))
    assert done.stdout.strip() == "{'last': 'x'} False", done.stderr


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_on_a_full_disk_another_programs_lock_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    code = """
        import sqlite3
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        from gpumod.domain.errors import Failed
        path = Path(sys.argv[1])
        open_store(path / "gpumod.db").close()
        fill(path)
        other = sqlite3.connect(path / "gpumod.db", isolation_level=None)
        try:
            other.execute("SELECT 1 FROM services")
        except sqlite3.OperationalError:
            pass  # it finds no room either, and keeps the lock that it has taken
        try:
            open_store(path / "gpumod.db")
        except Failed as error:
            print(error.code, error.info.why)
        other.close()
    """
    done = on_a_full_disk(tmp_path, code)
    assert done.stdout.strip() == "database database is locked", done.stderr
