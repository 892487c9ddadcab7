"""Slips of the pen on the command line: what is told of them, and that they change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpumod.cli.main import root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def run(home: Path, *args: str) -> Result:
    return CliRunner().invoke(root, ["--home", str(home), *args])


def error_of(result: Result) -> Any:
    return json.loads(result.stdout)["error"]


@pytest.mark.parametrize("args", [["status"], ["mode", "list"], ["switch", "code"], ["settings", "list"], ["plugins"]])
def test_a_home_that_is_named_wrongly_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    typo = tmp_path / "ho me"
    result = run(typo, "--json", *args)
    assert (result.exit_code, error_of(result)["code"]) == (2, "no-such-home")
    assert error_of(result)["why"].startswith("--home ")
    assert error_of(result)["hint"] == f"`gpumod --home '{typo}' init` makes one there"
    monkeypatch.setenv("GPUMOD_HOME", str(typo))
    by_variable = CliRunner().invoke(root, ["--json", *args])
    assert error_of(by_variable)["why"].startswith("GPUMOD_HOME ")
    assert not typo.exists()


def test_what_makes_a_home_is_init_and_for_the_usual_one_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named"
    run(named, "--json", "init")  # whether this machine has a GPU or not
    assert (named / "gpumod.db").exists()
    monkeypatch.delenv("GPUMOD_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert CliRunner().invoke(root, ["--json", "settings", "list"]).exit_code == 0
    assert (tmp_path / "gpumod" / "gpumod.db").exists()


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["template", "edit", "unit.service.j2", "--file", "/nonexistent"], "a file with its text"),
        (["template", "edit", "unit.service.j2", "--file", ""], "a file with its text"),
        (["diff", "--file", "/nonexistent"], "a YAML file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_what_it_should_be(home: Path, args: list[str], what: str) -> None:
    error = error_of(run(home, "--json", *args))
    assert error["code"] == "bad-file"
    assert (args[-1] or "''") in error["message"]
    assert what in error["hint"]


@pytest.mark.parametrize(("group", "example"), [("service", "service list"), ("service secret", "service secret list")])
def test_where_json_goes_is_told_to_who_gives_it_to_a_group(home: Path, group: str, example: str) -> None:
    refused = run(home, *group.split(), "--json")
    assert refused.exit_code == 2
    hint = error_of(refused)["hint"]
    assert hint.startswith(f"--json goes after the command, as in `gpumod {example}")
    assert "--json goes" not in error_of(run(home, "--json", *group.split(), "--jsn"))["hint"]


@pytest.mark.parametrize("args", [["-1"], ["-1", "--json"], ["--", "-1"], ["-0.5"]])
def test_a_negative_setting_is_refused_as_a_value(home: Path, args: list[str]) -> None:
    refused = run(home, "--json", "settings", "set", "reserve_mb", *args)
    assert (refused.exit_code, error_of(refused)["code"]) == (2, "bad-setting")
    assert f"reserve_mb cannot be '{'-1' if '-1' in args else '-0.5'}'" in error_of(refused)["message"]
    assert run(home, "settings", "set", "reserve_mb", "--defalt").exit_code == 2


def test_a_folder_that_is_not_there_is_told(home: Path, tmp_path: Path) -> None:
    done = run(home, "--json", "settings", "set", "models_dir", str(tmp_path / "modles"))
    assert done.exit_code == 0
    assert json.loads(done.stdout)["note"] == f"there is no folder {tmp_path / 'modles'} (yet)"
    assert json.loads(run(home, "--json", "settings", "set", "models_dir", str(tmp_path)).stdout)["note"] == ""


def test_an_editor_that_cannot_be_used_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    for editor, why in (("/nonexistent/ed", "/nonexistent/ed"), ("false", "Editing failed"), ("'", "quotation")):
        monkeypatch.setenv("EDITOR", editor)
        refused = run(home, "--json", "template", "edit", "unit.service.j2")
        assert (refused.exit_code, error_of(refused)["code"]) == (1, "no-editor"), editor
        assert why in error_of(refused)["why"]
        assert "--file FILE" in error_of(refused)["hint"]
    assert not (home / "templates").exists()
    monkeypatch.setenv("EDITOR", "true")
    left = run(home, "template", "edit", "unit.service.j2")
    assert left.exit_code == 0
    assert "nothing was changed" in left.stdout
    assert not (home / "templates").exists()


@pytest.mark.parametrize(
    ("option", "example"),
    [("--idle-timeout", "(as in chat=600, in seconds; 0: never)"), ("--start-order", "(as in chat=2)")],
)
def test_a_number_of_a_member_is_told_by_an_example_of_its_kind(home: Path, option: str, example: str) -> None:
    refused = run(home, "--json", "mode", "edit", "rag", option, "hyde=-1")
    assert refused.exit_code == 2
    assert example in error_of(refused)["message"]


def test_a_plugin_name_that_is_too_long_is_told_its_limit(home: Path, tmp_path: Path) -> None:
    refused = run(home, "--json", "plugins", "new", "a" * 41, "--folder", str(tmp_path))
    assert refused.exit_code == 2
    assert "must have at most 40 characters" in error_of(refused)["why"]
    assert not list(tmp_path.glob("gpumod-*"))
    assert run(home, "plugins", "new", "a" * 40, "--folder", str(tmp_path)).exit_code == 0
