"""Templates, units as they would be written, and secrets, on a simulated machine. Nothing here needs a systemd."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cases import first

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim


def told(machine: Machine, text: str, *args: str, code: int = 0) -> Any:
    """Run the program with `text` on stdin."""
    done = machine.quick(*args, stdin=text)
    assert done.code == code, done
    return done.json


# --- templates ------------------------------------------------------------------------------------------------------


def test_templates_are_listed_shown_edited_and_taken_back(machine: Machine) -> None:
    rows = {row["name"]: row for row in machine.ok("template", "list").json["templates"]}
    assert rows["unit.service.j2"]["source"] == "gpumod"
    assert rows["vllm.service.j2"]["source"] == "vllm"
    shown = machine.ok("template", "show", "vllm.service.j2").json
    assert shown["text"] == Path(shown["path"]).read_text()
    assert "hyde" in shown["services"]

    mine = shown["text"].replace("{% block service %}", "{% block service %}\nNice=5")
    edited = told(machine, mine, "template", "edit", "vllm.service.j2", "--file", "-")
    assert (edited["changed"], edited["source"]) == (True, "yours")
    rows = {row["name"]: row for row in machine.ok("template", "list").json["templates"]}
    assert rows["vllm.service.j2"]["hides"] == ["vllm"]
    unit = machine.ok("template", "render", "vllm.service.j2", "hyde").json
    assert "\nNice=5\n" in unit["text"]
    assert "\nNice=5\n" not in machine.ok("template", "render", "unit.service.j2", "hyde").json["text"]

    back = machine.ok("template", "edit", "vllm.service.j2", "--default").json
    assert (back["changed"], back["source"]) == (True, "vllm")
    assert not machine.ok("template", "edit", "vllm.service.j2", "--default").json["changed"]


@pytest.mark.parametrize(
    ("name", "text", "code", "error"),
    [
        ("vllm.service.j2", "{% if %}", 1, "bad-template"),
        ("../x.j2", "x", 2, "bad-template-name"),
        ("x.conf", "x", 2, "bad-template-name"),
    ],
)
def test_a_bad_template_is_refused(machine: Machine, name: str, text: str, code: int, error: str) -> None:
    assert told(machine, text, "template", "edit", name, "--file", "-", code=code)["error"]["code"] == error
    assert not (machine.home / "templates").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    first(
        1,
        [
            ("[Service]\nType=exec\n", "ExecStart="),
            ('{% extends "unit.service.j2" %}{% block service %}\n[X-Gpumod]\n{% endblock %}', "X-Gpumod"),
            ("[Service]\nExecStart=/bin/true\n", "EnvironmentFile="),
            ("{{ service.no_such_thing }}", "no_such_thing"),
        ],
    ),
)
def test_a_template_without_what_gpumod_relies_on_makes_no_unit(machine: Machine, text: str, why: str) -> None:
    told(machine, text, "template", "edit", "own.service.j2", "--file", "-")
    machine.ok("service", "edit", "hyde", "--unit-template", "own.service.j2")
    done = machine.quick("template", "render", "own.service.j2", "hyde")
    assert (done.code, done.error["code"]) == (1, "bad-template"), done
    assert why in done.error["why"]


def test_what_no_template_is_called_is_told(machine: Machine) -> None:
    done = machine.quick("template", "show", "vlm.service.j2")
    assert (done.code, done.error["code"]) == (4, "unknown-template")
    assert "vllm.service.j2" in done.error["hint"]
    done = machine.quick("template", "render", "nicer.j2", "hyde")
    assert (done.code, done.error["code"]) == (2, "not-a-unit")


# --- units ----------------------------------------------------------------------------------------------------------


def test_a_unit_is_shown_as_it_would_be_written(machine: Machine) -> None:
    done = machine.quick("service", "unit", "hyde")
    assert (done.code, done.error["code"]) == (2, "no-unit")  # a plain process keeps it
    machine.ok("service", "edit", "hyde", "--run-with", "systemd-user", "--name", 'a "b" %n $HOME\\')
    unit = machine.ok("service", "unit", "hyde").json
    assert (unit["supervisor"], unit["template"], unit["there"]) == ("systemd-user", "vllm.service.j2", False)
    assert unit["unit"].startswith("gpumod-hyde.")
    assert 'Description=gpumod: a "b" %%n $HOME\\\\\n' in unit["text"]
    assert "LimitMEMLOCK=infinity" in unit["text"]
    assert not Path(unit["path"]).exists()


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_reaches_its_service_and_nothing_else(machine: Machine) -> None:
    value = 's3cr3t with $HOME and "quotes"'
    done = told(machine, value + "\n", "service", "secret", "set", "hyde", "HF_TOKEN")
    assert (done["names"], done["apply"]) == (["HF_TOKEN"], "")
    (file,) = [path for path in machine.home.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    machine.change("service", "start", "hyde")
    row = next(row for row in machine.status()["services"] if row["id"] == "hyde")
    environment = Path(f"/proc/{row['pid']}/environ").read_bytes().split(b"\0")
    assert f"HF_TOKEN={value}".encode() in environment
    for command in ("export", "service show hyde", "history list", "service secret list hyde"):
        assert "s3cr3t" not in machine.ok(*command.split()).stdout
    machine.change("service", "stop", "hyde")

    draft = machine.home / "secrets" / f".hyde.json.{'0' * 16}.tmp"
    draft.write_text(value)  # as who was killed while writing leaves it
    machine.ok("service", "secret", "remove", "hyde", "HF_TOKEN")
    assert machine.ok("service", "secret", "list", "hyde").json["names"] == []
    assert list(draft.parent.iterdir()) == []
    assert not file.exists()
    done = machine.quick("service", "secret", "remove", "hyde", "HF_TOKEN")
    assert (done.code, done.error["code"]) == (4, "unknown-secret")
    refused = told(machine, "x", "service", "secret", "set", "chat", "HF_TOKEN", code=2)
    assert refused["error"]["code"] == "no-process"  # a router's process serves it


def test_secrets_go_with_their_service(machine: Machine) -> None:
    told(machine, "s3cr3t", "service", "secret", "set", "tts", "API_KEY")
    machine.ok("service", "remove", "tts", "--cascade")
    assert not [path for path in machine.home.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_secrets_go_with_a_service_that_a_document_no_longer_names(machine: Machine) -> None:
    told(machine, "s3cr3t", "service", "secret", "set", "tts", "API_KEY")
    machine.ok("mode", "edit", "speak", "--remove", "tts")
    box = yaml.safe_load(machine.ok("export").json["yaml"])
    box["services"] = [row for row in box["services"] if row["id"] != "tts"]
    applied = told(machine, yaml.safe_dump(box), "apply", "--prune", "-f", "-")
    assert [(c["action"], c["id"]) for c in applied["changes"]] == [("remove", "tts")]
    assert not [path for path in machine.home.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_secrets_that_others_could_read_are_not_used(machine: Machine) -> None:
    told(machine, "s3cr3t", "service", "secret", "set", "tts", "API_KEY")
    file = machine.home / "secrets" / "tts.json"
    file.chmod(0o644)
    done = machine.quick("service", "start", "tts")
    assert done.error["code"] == "bad-secrets", done
    assert "s3cr3t" not in done.stdout + done.stderr
    file.chmod(0o600)


UNUSABLE = ({"A-B": "x"}, {"NOTIFY_SOCKET": "x"}, {"A": "a\0b"}, {"A": "\ud800"}, {"A": 1})


@pytest.mark.parametrize("secrets", first(1, UNUSABLE))
def test_secrets_that_no_process_can_be_given_are_found_before_the_first_stop(machine: Machine, secrets: Any) -> None:
    machine.change("service", "start", "hyde")
    told(machine, "s3cr3t", "service", "secret", "set", "tts", "API_KEY")
    file = machine.home / "secrets" / "tts.json"
    file.write_text(json.dumps(secrets))
    machine.ok("mode", "create", "other", "--services", "tts")
    done = machine.quick("switch", "other")
    assert (done.code, done.error["code"]) == (1, "bad-secrets"), done
    assert machine.states() == {"hyde": "running"}
    file.unlink()


@pytest.mark.parametrize(("name", "value"), first(1, [("A-B", "x"), ("1A", "x"), ("A", ""), ("LISTEN_FDS", "1")]))
def test_what_is_no_secret_is_refused(machine: Machine, name: str, value: str) -> None:
    told(machine, value, "service", "secret", "set", "tts", name, code=2)
