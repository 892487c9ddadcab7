"""A database that was edited by hand, is newer, is none, cannot be written, is written by many; a full disk."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases import first

NOBODY = 65534
READS = (
    ("status",), ("ps",), ("service", "list"), ("service", "show", "chat"), ("mode", "list"), ("mode", "show", "code"),
    ("simulate", "--mode", "code"), ("preset", "list"), ("history", "list"), ("settings", "list"), ("plugins",),
)  # fmt: skip
CHANGES = (
    ("switch", "code"), ("service", "start", "chat"), ("service", "edit", "chat", "--name", "x"),
    ("service", "remove", "reranker-base"), ("mode", "create", "m", "--services", "chat"), ("mode", "delete", "code"),
    ("settings", "set", "reserve_mb", "1"), ("preset", "load", "--update", "chat"),
)  # fmt: skip
SERVICE_EDITS = {
    "definition no JSON": "UPDATE services SET definition='{' WHERE id='asr'",
    "definition a list": "UPDATE services SET definition='[]' WHERE id='asr'",
    "unknown field": """UPDATE services SET definition='{"nope": 1}' WHERE id='asr'""",
    "vram a word": "UPDATE services SET vram_mb='lots' WHERE id='asr'",
    "port too large": "UPDATE services SET port=99999 WHERE id='asr'",
    "driver a path": "UPDATE services SET driver='../x' WHERE id='asr'",
    "newline in name": """UPDATE services SET definition='{"name": "a\\nb"}' WHERE id='asr'""",
    "edited no JSON": "UPDATE services SET user_edited='[1' WHERE id='asr'",
    "deep": "UPDATE services SET definition=replace(hex(zeroblob(50000)), '0', '[') WHERE id='asr'",
}
MODE_EDITS = {
    "name": "UPDATE modes SET name='a' || char(10) || 'b' WHERE id='code'",
    "want": "UPDATE mode_services SET want='maybe' WHERE mode_id='code'",
    "member": "UPDATE mode_services SET service_id='../x' WHERE mode_id='code'",
    "order": "UPDATE mode_services SET start_order='first' WHERE mode_id='code'",
}


@pytest.mark.parametrize("edit", first(3, SERVICE_EDITS.values()), ids=SERVICE_EDITS)
def test_a_broken_service_is_named_and_the_others_work(home, edit):
    home.sql(edit)
    assert "asr" not in home.services()
    status = home.ask("status", code=0).json
    assert [p["code"] for p in status["problems"]] == ["bad-row"]
    assert "asr" in status["problems"][0]["message"]
    assert home.ask("doctor", code=1)
    for args in (
        ("service", "show", "asr"),
        ("service", "edit", "asr", "--port", "9"),
        ("simulate", "--mode", "speak"),
    ):
        assert home.ask(*args, code=1).error["code"] == "bad-row", args
    home.add("asr", 9105, code=1)  # what stands there is not overwritten unasked
    home.ask("switch", "blank", code=0)
    home.ask("preset", "load", code=1)
    assert "asr" not in home.services()
    home.ask("preset", "load", "--update", code=0)
    assert home.services()["asr"]["driver"] == "fastapi"


def test_an_export_that_lacks_something_is_printed_and_fails(home):
    whole = home.ask("export", code=0).json
    assert whole["error"] is None
    home.sql(SERVICE_EDITS["definition no JSON"])
    told = home.ask("export", code=1).json
    assert told["error"]["code"] == "not-whole"
    assert told["error"]["details"]["missing"] == ["service asr"]
    assert "gpumod service remove asr" in told["error"]["hint"]
    assert "- id: glm-code" in told["yaml"]
    said = home.say("export", code=1)
    assert said.stdout == told["yaml"]
    assert "left out: service asr: " in said.stderr
    assert "the document is not whole: it lacks service asr" in said.stderr
    home.ask("preset", "load", "--update", code=0)
    assert home.ask("export", code=0).json == whole


def test_a_broken_row_can_be_removed_by_the_name_that_it_has(home):
    home.sql("UPDATE services SET id='../x' WHERE id='asr'; UPDATE modes SET id='a' || char(10) || 'b' WHERE id='rag'")
    assert "service remove ../x" in home.ask("status").json["problems"][0]["hint"]
    home.ask("service", "remove", "../x", code=0)
    home.ask("mode", "delete", "a\nb", code=0)
    assert home.ask("status").json["problems"] == []
    home.ask("preset", "load", code=0)
    assert "asr" in home.services()
    assert "rag" in home.modes()


@pytest.mark.slow
@pytest.mark.parametrize("edit", MODE_EDITS.values(), ids=MODE_EDITS)
def test_a_broken_mode_is_named_and_the_others_work(home, edit):
    home.sql(edit)
    assert "code" not in home.modes()
    for args in (("mode", "show", "code"), ("switch", "code"), ("simulate", "--mode", "code")):
        assert home.ask(*args, code=1).error["code"] == "bad-row", args
    home.ask("mode", "create", "code", "--services", "chat", code=1)
    home.ask("switch", "blank", code=0)
    home.ask("mode", "delete", "code", code=0)
    home.ask("preset", "load", code=0)
    assert home.modes()["code"] == ["embedding-code", "glm-code"]


NO_TEXT = {
    "services": ("id", "driver", "role", "host", "definition", "user_edited"),
    "modes": ("id", "name", "description"),
    "mode_services": ("service_id", "want"),
    "settings": ("value",),
}


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), [(table, name) for table, names in NO_TEXT.items() for name in names])
def test_bytes_that_are_no_text_break_one_row(home, table, column):
    """sqlite3 itself refuses the whole answer then."""
    home.ask("settings", "set", "reserve_mb", "600", code=0)
    one = {"services": "id='asr'", "modes": "id='speak'", "settings": "key='reserve_mb'"}.get(table, "service_id='asr'")
    home.sql(f"UPDATE {table} SET {column} = CAST(x'61EDA08062' AS TEXT) WHERE {one}")  # noqa: S608
    problems = home.ask("status", code=0).json["problems"]
    assert {problem["code"] for problem in problems} == {"bad-row"}, problems
    for args in READS:
        home.ask(*args, code=0)
    home.ask("doctor", code=1)
    home.ask("switch", "blank", code=0)
    assert "chat" in home.services()


@pytest.mark.parametrize("value", first(1, ["abc", "-1", "999999999999"]))
def test_a_broken_setting_can_be_set_right(home, value):
    home.sql(f"INSERT OR REPLACE INTO settings VALUES ('reserve_mb', '{value}', 0)")  # noqa: S608  # that is the point
    status = home.ask("status", code=0).json
    assert "reserve_mb" in status["problems"][0]["message"]
    assert "settings set reserve_mb" in status["problems"][0]["hint"]
    assert home.ask("settings", "get", "reserve_mb").json["source"] == "default"
    told = "row 'reserve_mb': field value is wrong"
    shown = home.ask("doctor", code=1).json["checks"], home.ask("settings", "list").json["settings"]
    assert [row["name"] for row in shown[0] if told in row["message"]] == ["database"]
    assert [row["key"] for row in shown[1] if told in row["note"]] == ["reserve_mb"]
    flat = home.say("settings", "list", env={"COLUMNS": "300"}).stdout
    assert "until then the default is in force" in flat
    planned = [
        ("simulate", "--mode", "code"),
        ("switch", "code", "--dry-run"),
        ("service", "start", "asr", "--dry-run"),
    ]
    for command in planned:
        assert told in home.ask(*command).json["notes"][-1]
    home.ask("settings", "set", "reserve_mb", "600", code=0)
    assert home.ask("status").json["problems"] == []
    assert [home.ask(*command).json["notes"] for command in planned] == [[], [], []]


def test_a_mode_on_record_that_is_no_name(home):
    home.sql("INSERT OR REPLACE INTO settings VALUES ('mode.current', '../x', 0)")
    assert home.ask("status", code=0).json["mode"] is None
    home.ask("switch", "blank", code=0)
    assert home.ask("status").json["mode"] == "blank"


@pytest.mark.parametrize(
    ("row", "mend"),
    first(
        2,
        [
            ("INSERT INTO handles VALUES ('chat', 'process', 'beef', 0, '{}')", ("service", "stop", "chat")),
            ("INSERT INTO handles VALUES ('chat', 'process', 'beef', 'soon', 'no json')", ("switch", "blank")),
            ("INSERT INTO handles VALUES ('ghost', 'process', 'beef', 0, '[]')", ("service", "stop", "ghost")),
            (
                "INSERT INTO handles VALUES ('ghost', 'process', 'beef', 0, '{\"gpus\": 3}')",
                ("service", "remove", "ghost"),
            ),
            ("INSERT INTO handles VALUES ('chat', 'process', '../..', 0, '{}')", ("service", "stop", "chat")),
            ("INSERT INTO handles VALUES ('../x', 'process', 'beef', 0, '{}')", ("service", "remove", "../x")),
            ("INSERT INTO handles VALUES ('', 'process', '', 0, '{}')", ("service", "remove", "")),
        ],
    ),
)
def test_a_broken_handle_is_named_and_cleared(home, row, mend):
    home.sql(row)
    before = home.services()
    (problem,) = home.ask("status", code=0).json["problems"]
    assert (problem["code"], problem["details"]["table"]) == ("bad-row", "handles")
    doctor = home.say("doctor", code=1, env={"COLUMNS": "300"}).stdout
    assert "table handles, row" in doctor
    assert problem["hint"].partition("`")[2].partition(" {")[0].split("`")[0] in doctor
    home.ask(*mend, code=0)
    assert home.ask("status", code=0).json["problems"] == []
    assert home.services() == before
    home.ask("switch", "blank", code=0)


def test_broken_runs_are_errors_that_name_them(home):
    home.sql("INSERT INTO runs VALUES (1, 'r1', 'switch x', 'pid 1', 'running', NULL, 0, NULL, NULL, '{}')")
    for args in (("status",), ("switch", "blank"), ("recover",), ("recover", "--rollback")):
        done = home.ask(*args, code=1)
        assert (done.error["code"], done.error["details"]["table"]) == ("bad-row", "runs"), args
    home.ask("history", "list", code=0)
    home.ask("service", "list", code=0)


def test_broken_simulations_events_and_samples_are_passed_over(home):
    home.ask("simulate", "--mode", "code", "--add", "reranker", code=3)
    home.sql("UPDATE simulations SET definition='{'; UPDATE events SET data='{'")
    home.sql("INSERT INTO vram_samples VALUES (NULL, 'chat', 'k', 0, 'settled', 'much')")
    for args in (*READS, ("history", "simulations")):
        home.ask(*args, code=0)


def test_a_newer_database_is_left_alone(home):
    home.sql("UPDATE alembic_version SET version_num='9999'")
    before = home.database.read_bytes()
    for args in (*READS[:2], *CHANGES):
        done = home.ask(*args, code=1)
        assert done.error["code"] == "database-too-new"
        assert "upgrade" in done.error["hint"]
    assert home.database.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all", b"SQLite format 3\x00garbage" * 40, b"\x00" * 4096])
def test_a_file_that_is_no_database_is_left_alone(home, content):
    home.no_database()
    home.database.write_bytes(content)
    for args in (("status",), ("init", "--yes"), *CHANGES):
        assert home.ask(*args, code=1).error["code"] == "not-a-database", args
    assert home.database.read_bytes() == content


def test_somebody_elses_database_is_left_alone(home):
    home.no_database()
    connection = sqlite3.connect(home.database)
    connection.executescript("CREATE TABLE diary (day TEXT); INSERT INTO diary VALUES ('monday')")
    connection.close()
    before = home.database.read_bytes()
    assert home.ask("init", "--yes", code=1).error["code"] == "not-a-database"
    assert home.database.read_bytes() == before


def test_a_database_that_is_a_folder_and_one_that_is_empty(home):
    home.no_database()
    home.database.mkdir()
    assert home.ask("status", code=1).error["code"] == "not-a-database"
    home.database.rmdir()
    home.database.touch()
    home.init()
    assert home.services()


@pytest.mark.parametrize("empty", [False, True])
def test_a_lost_database_is_told_until_the_home_is_made_again(home, empty):
    home.no_database()
    if empty:
        home.database.touch()
    mend = f"gpumod init --sim-dir {home.path}/sim"
    for args in (("status",), ("service", "list"), ("switch", "code")):
        said = home.say(*args)
        assert f"note: {home.path} was used before (it holds sim), but its database was not there" in said.stderr, args
        assert mend in said.stderr
    assert home.ask("export", code=1).error["code"] == "database-lost"  # it is no backup to keep
    checks = home.ask("doctor", code=1).json["checks"]
    assert [mend in check["hint"] for check in checks if check["name"] == "database"] == [True]
    home.ask("init", "--yes", "--sim-dir", f"{home.path}/sim", code=0)
    assert "note:" not in home.say("status", code=0).stderr
    assert home.services()


def test_events_that_cannot_be_read_keep_no_command_from_its_answer(home):
    """`doctor`, and `export`, which saves what there is."""
    home.sql("DROP TABLE events")
    assert "- id: glm-code" in home.say("export", code=0).stdout
    home.sql("DELETE FROM services")
    assert home.ask("doctor", code=1).json["checks"]


def test_a_table_that_is_gone_is_told_as_the_databases(home):
    home.sql("DROP TABLE runs")
    found = [check for check in home.ask("doctor", code=1).json["checks"] if "no such table" in check["message"]]
    assert {check["name"] for check in found} == {"database"}
    assert not any("gpumod doctor" in check["hint"] for check in found)


def test_a_home_that_was_never_used_has_lost_nothing(bare):
    bare.path.mkdir(mode=0o700)
    assert "note:" not in bare.say("service", "list", code=0).stderr


@pytest.fixture
def locked_home(home) -> Iterator[Path]:
    """The same home, owned by nobody in particular and writable for no one; root needs another user to be denied."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root is denied nothing, and there is no setpriv to become somebody else")
    # Not below pytest's own folder, which is closed to every other user.
    folder = Path(tempfile.mkdtemp(prefix="gpumod-read-only-"))
    folder.chmod(0o711)
    home.path = folder / "home"
    home.init()
    paths = [home.path, *home.path.rglob("*")]
    for path in paths:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    yield home.path
    for path in paths:
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_read_only_home_reads_and_simulates_and_refuses_changes(home, locked_home: Path):
    words = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
    probe = subprocess.run([*words, *home.argv("--version")], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"another user cannot run this Python: {probe.stderr.strip()[-200:]}")
    before = {path: path.lstat().st_mtime_ns for path in (home.path, *home.path.rglob("*"))}
    for args in (("status",), ("simulate", "--mode", "code")):
        assert "error" not in home.process("--json", *args, prefix=words, code=0).json, args
    for args in (CHANGES[0], CHANGES[6], ("init", "--yes", "--sim", "RTX 4090:24564")):
        done = home.process("--json", *args, prefix=words, code=9)
        assert done.error["code"] == "read-only-home", args
        assert "writable" in done.error["hint"]
    assert {path: path.lstat().st_mtime_ns for path in (home.path, *home.path.rglob("*"))} == before


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as ballast:
        while ballast.write(b"x" * 4096):
            pass


@pytest.mark.slow
def test_a_full_disk_is_refused_before_the_first_stop(home, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        home.path = small / "home"
        home.init()
        home.ask("settings", "set", "min_free_disk_mb", "0", code=0)
        home.ask("switch", "blank", code=0)
        home.ask("settings", "set", "min_free_disk_mb", "50", code=0)
        done = home.ask("switch", "code", code=9)
        assert done.error["code"] == "disk-full"
        assert "min_free_disk_mb" in done.error["hint"]
        fill(home.path / "ballast")
        assert home.ask("mode", "create", "m", "--services", "chat").code in (0, 9)
        assert home.ask("switch", "code", code=9).error["code"] == "disk-full"
        assert home.ask("status", code=0).json["mode"] == "blank"
        assert home.services()
        gc.collect()  # as for a process of its own: nobody has the database open
        for args in READS:
            home.ask(*args, code=0)
            gc.collect()
        assert home.ask("init", "--yes", "--sim", "RTX 4090:24564", code=9).error["code"] in ("disk-full", "no-sim-dir")
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.slow
def test_twenty_writers_at_once_lose_nothing(home):
    for n in range(10):
        home.add(f"s{n}", 9200 + n)
    argvs = [home.argv("--json", "service", "edit", f"s{n}", "--name", f"name {n}") for n in range(10)]
    keys = ["reserve_mb", "ram_reserve_mb", "min_free_disk_mb", "log_max_mb", "release_timeout_s"]
    argvs += [home.argv("--json", "settings", "set", key, str(30 + n)) for n, key in enumerate(keys)]
    argvs += [home.argv("--json", "mode", "create", f"m{n}", "--services", f"s{n}") for n in range(5)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for argv in argvs]
    for process in processes:
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, (stdout, stderr)
        assert "locked" not in stdout + stderr
    services = home.services()
    assert [services[f"s{n}"]["name"] for n in range(10)] == [f"name {n}" for n in range(10)]
    settings = {row["key"]: row["value"] for row in home.ask("settings", "list").json["settings"]}
    assert [settings[key] for key in keys] == [str(30 + n) for n in range(len(keys))]
    assert all(home.modes()[f"m{n}"] == [f"s{n}"] for n in range(5))
