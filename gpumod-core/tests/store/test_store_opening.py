"""Opening: made once, upgraded with a backup, refused when newer or foreign, read where nothing can be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from gpumod.adapters.store import SqlStore, migrate, open_store
from gpumod.adapters.store.connect import connect_file
from gpumod.adapters.store.opening import SCHEMA, Schema, open_database, revision_of
from gpumod.adapters.store.tables import metadata
from gpumod.domain.errors import Failed, GpumodError, MachineLacks
from gpumod.domain.mode import Mode, ModeMember
from gpumod.domain.run import Event
from gpumod.domain.service import Service

EVENT = Event(at=1.0, kind="test", subject="it")
CHAT = Service(id="chat", driver="llamacpp", port=7800)
RAG = Mode(id="rag", members=(ModeMember(service="chat"),))
TABLES = {
    "gpu_profiles", "services", "modes", "mode_services", "service_templates", "settings", "models", "simulations",
    "handles", "leases", "runs", "run_steps", "events", "vram_samples",
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one service in it."""
    path = tmp_path / "home" / "gpumod.db"
    with open_store(path) as store:
        store.put_service(CHAT, event=EVENT)
    return path


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


@pytest.mark.parametrize("name", ["with space", "100%", "a?b#c", "ü", "a'b"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "gpumod.db"
    for _ in range(2):
        with open_store(path) as store:
            store.put_service(CHAT, event=EVENT)
    assert path.is_file()
    with open_store(path, read_only=True) as store:
        assert store.services() == {"chat": CHAT}


def test_the_constant_is_alembics_head_and_models_match_migrations(path: Path) -> None:
    with closing(connect_file(path)) as connection:
        assert revision_of(connection) == SCHEMA.head
        engine = create_engine("sqlite://", creator=lambda: connection)
        with engine.connect() as live:
            config = migrate.config_for(live, SCHEMA)
            script = ScriptDirectory.from_config(config)
            assert tuple(revision.revision for revision in script.walk_revisions())[::-1] == SCHEMA.revisions
            command.check(config)
        engine.dispose()
    assert set(metadata.tables) == TABLES


def test_every_migration_can_be_taken_back(path: Path) -> None:
    with closing(connect_file(path)) as connection:
        engine = create_engine("sqlite://", creator=lambda: connection)
        with engine.connect() as live:
            command.downgrade(migrate.config_for(live, SCHEMA), "base")
        left = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        engine.dispose()
    assert left == [("alembic_version",)]


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


def full_disk(tmp_path: Path) -> str:
    """A shell line that runs the rest in a namespace of its own, with a file system of 400 kB on `tmp_path`."""
    return f'mount -t tmpfs -o size=400k none "{tmp_path}" && exec "$@"'


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
        try:
            with (path / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        except OSError:
            pass
        try:
            open_store(path / "new" / "gpumod.db")
        except MachineLacks as error:
            print(error.code)
    """
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", full_disk(tmp_path), "sh"]
    if subprocess.run([*shell, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespaces here")
    argv = [*shell, sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["disk-full", "disk-full"], done.stderr


NEXT = '''
"""A later schema: every table of modes is copied to a new one."""

import sqlalchemy as sa
from alembic import op

revision = "9998"
down_revision = "HEAD"


def upgrade() -> None:
    with op.batch_alter_table("modes", recreate="always") as batch:
        batch.add_column(sa.Column("colour", sa.String(), server_default="blue", nullable=False))


def downgrade() -> None:
    op.drop_column("modes", "colour")
'''


@pytest.fixture
def later(tmp_path: Path) -> Schema:
    """The schema of a later gpumod."""
    folder = tmp_path / "migrations 100%"
    shutil.copytree(SCHEMA.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9998_next.py").write_text(NEXT.replace("HEAD", SCHEMA.head))
    return Schema(folder, (*SCHEMA.revisions, "9998"))


def test_an_older_database_is_upgraded_with_a_backup_and_loses_no_children(path: Path, later: Schema) -> None:
    with open_store(path) as store:
        store.put_mode(RAG, event=EVENT)
    open_database(path, schema=later).close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT colour FROM modes").fetchall() == [("blue",)]
        assert raw.execute("SELECT service_id FROM mode_services").fetchall() == [("chat",)]
    backup = path.with_name(f"gpumod.db.backup-{SCHEMA.head}")
    assert backup.stat().st_mode & 0o777 == 0o600
    with open_store(backup) as store:
        assert store.modes() == {"rag": RAG}
    with pytest.raises(Failed) as caught:
        open_store(path)
    assert caught.value.code == "database-too-new"


def test_an_older_database_that_cannot_be_changed_is_read_as_an_upgraded_copy(path: Path, later: Schema) -> None:
    before = path.read_bytes()
    with SqlStore(open_database(path, read_only=True, schema=later)) as store:
        assert store.services() == {"chat": CHAT}
    assert path.read_bytes() == before


def test_an_upgrade_that_fails_changes_nothing(path: Path, later: Schema) -> None:
    broken = later.folder / "versions" / "9998_next.py"
    failing = broken.read_text().replace("def downgrade", "    raise OSError(28, 'No space left')\n\n\ndef downgrade")
    broken.write_text(failing)
    with pytest.raises(MachineLacks) as caught:
        open_database(path, schema=later)
    assert caught.value.code == "disk-full"
    with open_store(path) as store:
        assert store.services() == {"chat": CHAT}


UPGRADE = """
    with SqlStore(open_database(path, schema=Schema(Path(sys.argv[3]), (*SCHEMA.revisions, "9998")))) as store:
        assert list(store.services()) == ["chat"]
"""
WRITE = """
    for n in range(8):
        with open_store(path) as store:
            service = Service(id=f"s{me}-{n}", driver="vllm", port=7000 + me)
            store.put_service(service, event=Event(at=time.time(), kind="added", subject=service.id))
            assert service.id in store.services()
"""
EIGHT = """
import os, sys, time, traceback
from pathlib import Path
import gpumod.adapters.store.migrate
from gpumod.adapters.store import SqlStore, open_store
from gpumod.adapters.store.opening import SCHEMA, Schema, open_database
from gpumod.domain.run import Event
from gpumod.domain.service import Service

def work(path, me):
{body}

path, start = Path(sys.argv[1]), time.time() + 0.1
pids = []
for me in range(8):
    pids.append(os.fork())
    if pids[-1] == 0:
        time.sleep(max(0, start - time.time()))
        try:
            work(path, me)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))
"""


def in_eight_processes(body: str, *args: object) -> None:
    """Run `body` in eight processes that begin at the same moment."""
    code = EIGHT.replace("{body}", body)
    argv = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_eight_processes_make_the_database_and_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "home" / "gpumod.db"
    in_eight_processes(WRITE, path)
    with open_store(path) as store:
        assert len(store.services()) == len(store.events(1000)) == 64


def test_eight_processes_upgrade_at_once(path: Path, later: Schema) -> None:
    in_eight_processes(UPGRADE, path, "-", later.folder)


def test_every_error_says_what_to_try(tmp_path: Path) -> None:
    path = tmp_path / "gpumod.db"
    path.write_text("no")
    with pytest.raises(GpumodError) as caught:
        open_store(path)
    assert caught.value.info.why
    assert caught.value.info.hint
