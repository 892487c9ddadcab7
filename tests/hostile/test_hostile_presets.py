"""Preset files that are wrong in every way: named with file, line and field, skipped, and nothing is lost."""

from pathlib import Path

import pytest

TOUCH = "pwned-by-yaml"
BAD = {  # name -> (text, line, field or a word of what is said)
    "not-yaml": ("id: [\n", 2, "not valid YAML"),
    "empty": ("", None, "no mapping"),
    "a-list": ("- id: x\n", None, "no mapping"),
    "a-word": ("hello\n", None, "no mapping"),
    "two-documents": ("id: a\n---\nid: b\n", 2, "not valid YAML"),
    "no-driver": ("id: x\nport: 9\n", 1, "driver"),
    "no-id": ("driver: fastapi\nport: 9\n", 1, "id"),
    "unknown-key": ("id: x\ndriver: fastapi\nprot: 9\n", 3, "prot"),
    "key-twice": ("id: x\nid: y\n", 2, "twice"),
    "key-number": ("id: x\n1: y\n", 2, "not text"),
    "port-text": ("id: x\ndriver: fastapi\nport: many\n", 3, "port"),
    "port-yes": ("id: x\ndriver: fastapi\nport: yes\n", 3, "port"),
    "port-range": ("id: x\ndriver: fastapi\nport: 70000\n", 3, "port"),
    "vram-negative": ("id: x\ndriver: fastapi\nport: 9\nvram_mb: -5\n", 4, "vram_mb"),
    "vram-nan": ("id: x\ndriver: fastapi\nport: 9\nvram_mb: .nan\n", 4, "vram_mb"),
    "id-path": ("id: ../x\ndriver: fastapi\n", 1, "id"),
    "id-newline": ('id: "a\\nb"\ndriver: fastapi\n', 1, "id"),
    "name-newline": ('id: x\ndriver: fastapi\nname: "a\\nExecStart=/bin/sh"\n', 3, "name"),
    "name-escape": ('id: x\ndriver: fastapi\nname: "\\e[31mred"\n', 3, "name"),
    "option-newline": ('id: x\ndriver: fastapi\nport: 9\nunit_vars:\n  command: "a\\nb"\n', 4, "unit_vars"),
    "template-path": ("id: x\ndriver: fastapi\nport: 9\nunit_template: ../../etc/passwd\n", 4, "unit_template"),
    "alias-bomb": ("a: &a [1]\nb: [*a, *a]\n", 1, "anchors"),
    "python-tag": (f"id: !!python/object/apply:os.system ['touch {TOUCH}']\n", 1, "not valid YAML"),
    "deep": ("a: " + "[" * 100 + "]" * 100 + "\n", 1, "deep"),
    "depends-on-itself": ("id: x\ndriver: fastapi\nport: 9\ndepends_on: [x]\n", None, "itself"),
    "sleep-disagrees": ("id: x\ndriver: vllm\nport: 9\nsupports_sleep: true\n", None, "sleep_mode"),
    "driver-refuses": ("id: x\ndriver: fastapi\nport: 9\n", None, "command"),
    "driver-unknown": ("id: x\ndriver: nope\nport: 9\n", None, "nope"),
}
BYTES = {"not-utf8": b"\xff\xfe\x00", "huge": b"# " + b"x" * 300_000, "binary": bytes(range(256))}
MODES = {
    "member-twice": ("kind: mode\nid: m\nservices: [chat, chat]\n", None, "chat"),
    "member-both": ("kind: mode\nid: m\nservices:\n  - {id: chat, asleep: true, sleep_on_idle: true}\n", 4, "asleep"),
    "member-order": ("kind: mode\nid: m\nservices:\n  - {id: chat, start_order: on}\n", 4, "start_order"),
    "member-path": ("kind: mode\nid: m\nservices: [../x]\n", 3, "services"),
    "kind": ("kind: thing\nid: m\n", 1, "kind"),
}


@pytest.mark.slow
def test_a_bad_file_is_named_with_line_and_field(home, tmp_path: Path):
    before = home.services(), home.modes()
    for name, (text, line, said) in (BAD | MODES).items():
        folder = tmp_path / name
        folder.mkdir()
        file = folder / "bad.yaml"
        file.write_text(text)
        done = home.ask("preset", "validate", str(file), code=1)
        problems = done.json["problems"]
        assert not done.json["ok"]
        assert str(file) in problems[0]["message"], name
        assert any(said in problem["message"] for problem in problems), (name, problems)
        if line is not None:
            assert f"{file}:{line}" in problems[0]["message"], name
        assert home.say("preset", "validate", str(file), code=1).stdout
        home.ask("preset", "load", "--folder", str(folder))
    # A driver that is not installed is no reason to lose a definition.
    assert ({name: row for name, row in home.services().items() if name != "x"}, home.modes()) == before
    assert not list(tmp_path.rglob(TOUCH))


def test_files_that_are_no_text(home, tmp_path: Path):
    for name, content in BYTES.items():
        file = tmp_path / f"{name}.yaml"
        file.write_bytes(content)
        done = home.ask("preset", "validate", str(file), code=1)
        assert str(file) in done.json["problems"][0]["message"]
    done = home.ask("preset", "validate", str(tmp_path), code=1).json
    assert len(done["problems"]) == done["checked"] == len(BYTES)


def test_files_are_counted_once_however_much_is_wrong_with_them(home, tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    good = "id: x\ndriver: fastapi\nport: 9\nunit_vars: {command: [python]}\n"
    for name, text in {
        "good": good,
        "twice": good,
        "refused": good.replace("id: x", "id: y").replace("command", "comand"),
        "three": "id: z\nport: 70000\nvram_mb: -1\nprot: 3\n",
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    done = home.ask("preset", "validate", str(folder), str(tmp_path / "none"), code=1).json
    assert done["checked"] == 4
    assert len(done["problems"]) == 1 + 1 + 4 + 1


def test_a_missing_or_empty_folder_removes_nothing(home, tmp_path: Path):
    before = home.services(), home.modes()
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "missing", Path("/dev/null"), tmp_path / "\x1b[31m"):
        for update in ((), ("--update",)):
            done = home.ask("preset", "load", "--folder", str(folder), *update, code=1)
            assert done.error["code"] == "bad-preset-folder", folder
            assert str(folder).replace("\x1b", "") in done.error["message"].replace("\x1b", "")
        home.say("preset", "load", "--folder", str(folder), code=1)
        home.ask("preset", "validate", str(folder), code=1)
    assert (home.services(), home.modes()) == before


def test_a_broken_file_stops_no_other(home, tmp_path: Path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "bad.yaml").write_text("id: [")
    (folder / "good.yaml").write_text("id: good\ndriver: fastapi\nport: 9104\nunit_vars: {command: [python]}\n")
    done = home.ask("preset", "load", "--folder", str(folder), code=1)
    assert done.json["added"] == ["good"]
    assert "bad.yaml" in done.json["problems"][0]["message"]
    assert "good" in home.services()


def test_a_broken_file_in_the_home_stops_nothing(home):
    folder = home.path / "presets"
    folder.mkdir()
    (folder / "bad.yaml").write_text("id: [")
    before = home.services()
    home.ask("preset", "load", code=1)
    home.ask("preset", "list", code=0)
    home.ask("status", code=0)
    assert home.services() == before


def test_what_gpumod_writes_loads_again(home, tmp_path: Path):
    home.ask("service", "edit", "asr", "--name", "a: b # c", "--set", 'env={"A": "$HOME %n: x"}', code=0)
    folder = tmp_path / "presets"
    folder.mkdir()
    rows = home.ask("preset", "list", code=0).json["presets"]
    assert rows
    for row in rows:
        text = home.ask("preset", "show", row["id"], "--kind", row["kind"], code=0).json["yaml"]
        (folder / f"{row['kind']}-{row['id']}.yaml").write_text(text)
    assert home.ask("preset", "validate", str(folder), code=0).json["checked"] == len(rows)
    done = home.ask("preset", "load", "--folder", str(folder), "--update", code=0).json
    assert done["problems"] == []
    assert set(done["updated"]) <= {"asr"}


def test_a_port_that_another_service_has_is_not_loaded(home, tmp_path: Path):
    port = home.services()["glm-code"]["port"]
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"id: p1\ndriver: fastapi\nport: {port}\nunit_vars: {{command: x}}\n")
    done = home.ask("preset", "load", "--folder", str(folder), code=1)
    assert [problem["code"] for problem in done.json["problems"]] == ["port-conflict"]
    assert "glm-code" in done.json["problems"][0]["message"]
    assert "p1" not in home.services()
    home.ask("service", "edit", "glm-code", "--name", "Foo", code=0)


def test_the_keys_of_a_document_are_told_as_they_are_written_there(home, tmp_path: Path):
    file = tmp_path / "box.yaml"
    file.write_text("version: 1\nservices:\n- id: n\n  driver: fastapi\n  frob: 1\n")
    why = home.ask("apply", "-f", str(file), code=2).error["why"]
    assert "unit_vars" in why
    assert "--set" not in why
