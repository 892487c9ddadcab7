"""Upgrades: the models match the migrations, an older database gets a backup, eight processes at once do no harm."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
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
from gpumod.domain.errors import Failed, MachineLacks
from gpumod.domain.machine import GpuProfile, GpuReading
from gpumod.domain.mode import Mode, ModeMember
from gpumod.domain.run import Event
from gpumod.domain.service import Service

EVENT = Event(at=1.0, kind="test", subject="it")
CHAT = Service(id="chat", driver="llamacpp", port=7800)
RAG = Mode(id="rag", members=(ModeMember(service="chat"),))
TABLES = {
    "gpu_profiles", "services", "modes", "mode_services", "service_templates", "settings", "models", "simulations",
    "handles", "leases", "turns", "uses", "runs", "run_steps", "events", "vram_samples",
}  # fmt: skip


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
    failing = "    raise OSError(28, 'No space left')\n\n\ndef downgrade"
    broken.write_text(broken.read_text().replace("def downgrade", failing))
    with pytest.raises(MachineLacks) as caught:
        open_database(path, schema=later)
    assert caught.value.code == "disk-full"
    with open_store(path) as store:
        assert store.services() == {"chat": CHAT}


WITHOUT_KINDS = """
    ALTER TABLE gpu_profiles DROP COLUMN architecture;
    ALTER TABLE gpu_profiles DROP COLUMN compute_capability;
"""


def test_cards_of_before_have_no_kind_until_the_next_look(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.executescript(WITHOUT_KINDS)
        raw.execute("UPDATE alembic_version SET version_num = '0004'")
        raw.execute("INSERT INTO gpu_profiles VALUES (0, 'NVIDIA GeForce RTX 4090', 'GPU-one', 24564)")
    card = GpuReading(index=0, name="NVIDIA GeForce RTX 4090", uuid="GPU-one", total_mb=24564, used_mb=0, free_mb=1)
    kept = GpuProfile(index=0, name=card.name, uuid=card.uuid, total_mb=card.total_mb)
    with open_store(path) as store:
        assert store.gpu_profiles() == (kept,)
        store.put_gpu_profiles([card])
        assert store.gpu_profiles() == (kept.model_copy(update={"architecture": "Ada", "compute_capability": "8.9"}),)


def test_events_of_before_hold_no_secrets_afterwards(path: Path) -> None:
    args = ["--api-key", "hunter2", "-x"]
    old = {"env": {"HF_TOKEN": "hunter2", "A": "1"}, "args": args, "cmd": "run"}
    new = {"env": {"HF_TOKEN": "hunter3"}, "args": args, "cmd": "run --token hunter3"}
    told = {"unit_vars": {"old": old, "new": new}, "vram_mb": {"old": 1, "new": 2}}
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.executescript("DROP TABLE turns; DROP TABLE uses; ALTER TABLE mode_services DROP COLUMN idle_timeout")
        raw.executescript(WITHOUT_KINDS)
        raw.execute("UPDATE alembic_version SET version_num = '0002'")
        tell = "INSERT INTO events (at, kind, subject, data) VALUES (2.0, 'service-edited', 'chat', ?)"
        for data in (json.dumps(told), '{"unit_vars" no JSON', '{"unit_vars": 3}'):
            raw.execute(tell, (data,))
    with open_store(path) as store:
        _, event, *others = store.events(9)
    shown = {
        "old": {"env": {"HF_TOKEN": "(secret)", "A": "1"}, "args": ["-x", "(secret)"], "cmd": "run"},
        "new": {"env": {"HF_TOKEN": "(secret)"}, "args": ["-x", "(secret)"], "cmd": "run (secret)"},
    }
    assert event.data == {"unit_vars": shown, "vram_mb": {"old": 1, "new": 2}}
    assert [other.kind for other in others] == ["test"]


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


@pytest.mark.slow
def test_eight_processes_make_the_database_and_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "home" / "gpumod.db"
    in_eight_processes(WRITE, path)
    with open_store(path) as store:
        assert len(store.services()) == len(store.events(1000)) == 64


@pytest.mark.slow
def test_eight_processes_upgrade_at_once(path: Path, later: Schema) -> None:
    in_eight_processes(UPGRADE, path, "-", later.folder)
