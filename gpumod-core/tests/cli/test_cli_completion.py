"""Completion: ids from the database, quick and silent."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from gpumod.cli.main import root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUMOD_HOME", str(tmp_path))
    database = sqlite3.connect(tmp_path / "gpumod.db")
    database.executescript(
        "create table services (id text); insert into services values ('chat'), ('reranker'), ('reranker-base');"
        "create table modes (id text); insert into modes values ('code'), ('rag');"
        "create table runs (id text, started_at real); insert into runs values ('r-1', 1), ('r-2', 2);"
        "create table simulations (seq integer, definition text, alternatives text);"
        "insert into simulations values"
        """ (1, '{"base": {"mode": "code"}}', '["a1", "b2"]'), (2, '{"base": {}}', '["c3"]');"""
    )
    database.close()
    return tmp_path


def completed(*args: str) -> list[str]:
    *before, last = args
    return [item.value for item in ShellComplete(root, {}, "gpumod", "_C").get_completions(before, last)]


@pytest.mark.usefixtures("home")
def test_ids_complete_from_the_database() -> None:
    assert completed("service", "start", "re") == ["reranker", "reranker-base"]
    assert completed("switch", "") == ["-", "code", "rag"]
    assert completed("mode", "switch", "r") == ["rag"]
    assert completed("simulate", "--mode", "") == ["code", "rag"], "what `-` means is the switch's to say"
    assert completed("switch", "code", "--with", "") == ["a1", "b2"]
    assert completed("history", "show", "") == ["last", "r-2", "r-1"]
    assert completed("preset", "show", "c") == ["chat", "code"]
    assert completed("simulate", "--services", "chat,re") == ["chat,reranker", "chat,reranker-base"]


def test_settings_complete() -> None:
    assert completed("settings", "get", "reserve") == ["reserve_mb"]


def test_commands_complete() -> None:
    assert completed("sw") == ["switch"]
    assert completed("mode", "sw") == ["switch"]


def test_home_on_the_command_line_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUMOD_HOME")
    assert completed("--home", str(home), "switch", "c") == ["code"]


@pytest.mark.parametrize("content", [None, b"", b"this is no database, whatever its name says" * 50])
def test_nothing_completes_where_nothing_can(home: Path, content: bytes | None) -> None:
    (home / "gpumod.db").unlink()
    if content is not None:
        (home / "gpumod.db").write_bytes(content)
    assert completed("service", "start", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_the_program(shell: str) -> None:
    plain = CliRunner().invoke(root, ["completion", shell])
    assert plain.exit_code == 0
    assert f"_GPUMOD_COMPLETE={shell}_complete" in plain.stdout
    in_json = CliRunner().invoke(root, ["completion", shell, "--json"])
    assert json.loads(in_json.stdout)["script"] == plain.stdout.removesuffix("\n")
