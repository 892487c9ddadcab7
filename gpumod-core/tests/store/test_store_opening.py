"""Opening: made once, kept from other users, refused when newer or foreign."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.errors import Failed, GpumodError
from gpumod.domain.run import Event
from gpumod.domain.service import Service
from tests.cases import first

EVENT = Event(at=1.0, kind="test", subject="it")
CHAT = Service(id="chat", driver="llamacpp", port=7800)


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_folder_and_files_are_the_users_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = tmp_path / "a" / "home" / "gpumod.db"
        with open_store(path) as store:
            store.put_service(CHAT, event=EVENT)
            assert path.parent.stat().st_mode & 0o777 == 0o700
            for file in path.parent.iterdir():
                assert file.stat().st_mode & 0o777 == 0o600, file
    finally:
        os.umask(old)
    path.chmod(0o644)
    open_store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    open_store(tmp_path / "gpumod.db").close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_nothing_is_left_beside_the_database(path: Path) -> None:
    assert sorted(file.name for file in path.parent.iterdir()) == ["gpumod.db", "gpumod.db.lock"]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "gpumod.db"
    path.touch()
    (tmp_path / "gpumod.db.new").write_text("left by a process that was killed")
    with open_store(path) as store:
        assert store.services() == {}


def cut_off(path: Path) -> None:
    """Write to a database, and be killed: what was written last stays beside it."""
    code = """
        import os, sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        from gpumod.domain.run import Event
        from gpumod.domain.service import Service
        store = open_store(Path(sys.argv[1]))
        for n in range(40):
            event = Event(at=1.0, kind="test", subject="it")
            store.put_service(Service(id=f"s{n}", driver="llamacpp", port=7800 + n), event=event)
        os._exit(9)
    """
    assert run_python(code, path).returncode == 9
    assert path.with_name("gpumod.db-wal").stat().st_size > 0


@pytest.mark.parametrize("lost", first(1, ["moved away", "removed", "emptied"]))
def test_what_a_lost_database_left_beside_it_is_no_part_of_the_next(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "gpumod.db"
    cut_off(path)
    log = path.with_name("gpumod.db-wal").read_bytes()
    moved = path.rename(tmp_path / "moved.db") if lost == "moved away" else None
    path.unlink(missing_ok=True)
    if lost == "emptied":
        path.touch()
    for _ in range(2):
        with open_store(path) as store:
            assert store.services() == {}
            assert store.problems() == ()
    (left,) = tmp_path.glob("gpumod.db-wal.left-*")
    assert left.read_bytes() == log
    assert not tmp_path.joinpath("gpumod.db-shm").exists()
    if moved:  # put together again, it is the database that it was
        left.rename(tmp_path / "moved.db-wal")
        with open_store(moved) as store:
            assert len(store.services()) == 40


@pytest.mark.parametrize("name", ["with space", "100%", "a?b#c", "ü", "a'b"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "gpumod.db"
    for _ in range(2):
        with open_store(path) as store:
            store.put_service(CHAT, event=EVENT)
    assert path.is_file()
    with open_store(path, read_only=True) as store:
        assert store.services() == {"chat": CHAT}


def test_the_database_is_set_up_for_many_processes(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []


def test_opening_one_that_is_up_to_date_does_not_import_alembic_and_is_cheap(path: Path) -> None:
    with open_store(path) as store:
        for n in range(50):
            store.put_service(CHAT.model_copy(update={"id": f"s{n}"}), event=EVENT)
    code = """
        import sys
        from pathlib import Path
        from gpumod.adapters.store import open_store
        with open_store(Path(sys.argv[1])) as store:
            assert len(store.services()) == 51
        assert not [name for name in sys.modules if name.startswith(("alembic", "mako", "filelock"))]
    """
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr


def test_a_newer_database_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.commit()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(Failed) as caught:
            open_store(path, read_only=read_only)
        assert caught.value.code == "database-too-new"
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello\n", b"\x7fELF" * 2000, b"SQLite format 3\x00" + b"rubbish" * 999])
def test_a_file_that_is_no_database_is_left_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gpumod.db"
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(Failed) as caught:
            open_store(path, read_only=read_only)
        assert caught.value.code == "not-a-database"
        assert str(path) in caught.value.info.message
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["gpumod.db"]


def test_somebody_elses_database_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "gpumod.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE pictures (id INTEGER)")
    with pytest.raises(Failed) as caught:
        open_store(path)
    assert caught.value.code == "not-a-database"
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("pictures",)]


def test_a_folder_in_its_place_and_a_file_as_home_are_errors(tmp_path: Path) -> None:
    (tmp_path / "gpumod.db").mkdir()
    with pytest.raises(Failed) as caught:
        open_store(tmp_path / "gpumod.db")
    assert caught.value.code == "not-a-database"
    (tmp_path / "file").touch()
    with pytest.raises(Failed) as caught:
        open_store(tmp_path / "file" / "gpumod.db")
    assert caught.value.code == "database"


def test_every_error_says_what_to_try(tmp_path: Path) -> None:
    path = tmp_path / "gpumod.db"
    path.write_text("no")
    with pytest.raises(GpumodError) as caught:
        open_store(path)
    assert caught.value.info.why
    assert caught.value.info.hint
