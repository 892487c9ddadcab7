"""Units that are left when another supervisor is to keep a service, or nobody: they go, and nobody else's do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sim]

FOLDERS = {"system": Path("/etc/systemd/system"), "user": Path.home() / ".config/systemd/user"}
BARE = "[Service]\nExecStart=/bin/sleep 60\n"


def systemctl(scope: str, *words: str) -> str:
    user = ["--user"] if scope == "user" else []
    return subprocess.run(["systemctl", *user, *words], capture_output=True, text=True).stdout.strip()


def unit(machine: Machine, scope: str, service: str) -> Path:
    home_id = (machine.home / "home-id").read_text().strip()
    return FOLDERS[scope] / f"gpumod-{service}.{home_id}.service"


def pid(machine: Machine, service: str) -> int | None:
    found: int | None = next(row["pid"] for row in machine.status()["services"] if row["id"] == service)
    return found


def up_and_down(machine: Machine, scope: str, service: str) -> Path:
    """The unit of a service that ran under a manager, and was stopped."""
    machine.ok("service", "edit", service, "--run-with", f"systemd-{scope}")
    machine.change("service", "start", service)
    machine.change("service", "stop", service)
    path = unit(machine, scope, service)
    assert path.exists()
    return path


@pytest.fixture(params=["system", "user"])
def scope(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def others(machine: Machine, scope: str) -> Iterator[dict[Path, str]]:
    """Units that are nobody's, another home's, another service's, or a copy of ours: none is to be touched."""
    mine = up_and_down(machine, scope, "asr").read_text()
    home_id = (machine.home / "home-id").read_text().strip()
    folder = FOLDERS[scope]
    texts = {
        unit(machine, scope, "bare"): BARE,
        folder / "gpumod-tts.service": BARE,
        folder / "gpumod-tts.0123456789ab.service": mine.replace(home_id, "0123456789ab"),
        folder / "gpumod-copy.service": mine,
        folder / "copy-of-asr.service": mine,
        unit(machine, scope, "hyde"): mine,  # it says that it is asr's
    }
    for path, text in texts.items():
        path.write_text(text)
    link = unit(machine, scope, "linked")
    link.symlink_to(folder / "copy-of-asr.service")
    drop_in = unit(machine, scope, "asr").with_name(unit(machine, scope, "asr").name + ".d")
    drop_in.mkdir()
    (drop_in / "mine.conf").write_text("[Service]\nNice=1\n")
    texts |= {link: mine, drop_in / "mine.conf": "[Service]\nNice=1\n"}
    yield texts
    assert {path: path.read_text() for path in texts} == texts
    assert link.is_symlink()
    for path in texts:
        path.unlink()
    drop_in.rmdir()


def test_another_supervisor_for_all(machine: Machine, scope: str, others: dict[Path, str]) -> None:
    machine.ok("settings", "set", "supervisor", f"systemd-{scope}")
    machine.ok("service", "edit", "asr", "--unset", "run_with")
    machine.change("service", "start", "tts")
    down, up = unit(machine, scope, "asr"), unit(machine, scope, "tts")
    running = pid(machine, "tts")

    other = {"system": "systemd-user", "user": "systemd-system"}[scope]
    machine.ok("settings", "set", "supervisor", other)
    assert not down.exists()
    assert systemctl(scope, "show", "--value", "-p", "LoadState", down.name) == "not-found"
    assert up.exists()
    assert pid(machine, "tts") == running
    machine.change("service", "restart", "tts")  # which brings it to the other one
    assert not up.exists()
    assert unit(machine, other.removeprefix("systemd-"), "tts").exists()

    machine.ok("settings", "set", "supervisor", "process")
    machine.change("service", "stop", "tts")
    assert not unit(machine, other.removeprefix("systemd-"), "tts").exists()
    assert not [check for check in machine.quick("doctor").json["checks"] if "is left" in check["message"]]


def test_another_supervisor_for_one(machine: Machine, scope: str, others: dict[Path, str]) -> None:
    kept, gone = unit(machine, scope, "asr"), up_and_down(machine, scope, "tts")
    machine.ok("service", "edit", "tts", "--run-with", "process")
    assert not gone.exists()
    assert kept.exists()
    document = machine.ok("export").json["yaml"]
    applied = machine.folder / "box.yaml"
    applied.write_text(document.replace(f"run_with: systemd-{scope}", "run_with: process"))
    machine.ok("apply", "-f", str(applied))
    assert not kept.exists()


def test_what_is_removed_leaves_nothing(machine: Machine, scope: str, others: dict[Path, str]) -> None:
    paths = {service: up_and_down(machine, scope, service) for service in ("asr", "tts")}
    for service in paths:
        machine.quick("service", "secret", "set", service, "API_KEY", stdin="s3cr3t")
        machine.change("service", "start", service)
        machine.change("service", "stop", service)
    assert machine.ok("service", "remove", "tts", "--cascade").json["notes"] == []
    assert not paths["tts"].exists()
    assert paths["asr"].exists()
    machine.ok("mode", "edit", "speak", "--remove", "asr")
    applied = machine.folder / "box.yaml"
    applied.write_text(without(machine.ok("export").json["yaml"], "asr"))
    machine.ok("apply", "--prune", "-f", str(applied))
    assert not paths["asr"].exists()
    assert not [path for path in machine.home.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def without(document: str, service: str) -> str:
    """A document without one of its services."""
    box: Any = yaml.safe_load(document)
    box["services"] = [row for row in box["services"] if row["id"] != service]
    return str(yaml.safe_dump(box))


def test_what_is_up_there_keeps_its_unit_and_is_told(machine: Machine, scope: str) -> None:
    path = up_and_down(machine, scope, "tts")
    systemctl(scope, "start", path.name)  # by hand: gpumod does not know
    machine.ok("service", "edit", "tts", "--run-with", "process")
    assert path.exists()
    assert systemctl(scope, "is-active", path.name) == "active"
    (check,) = [check for check in machine.quick("doctor").json["checks"] if str(path) in check["message"]]
    assert (check["name"], check["level"]) == ("service tts", "warning")
    assert check["hint"].startswith("systemctl --user stop" if scope == "user" else "systemctl stop")
    systemctl(scope, "stop", path.name)
    machine.ok("settings", "set", "supervisor", "process")  # whatever changes next takes it along
    assert not path.exists()


def test_a_run_that_is_open_keeps_what_its_way_back_needs(machine: Machine, scope: str) -> None:
    path = up_and_down(machine, scope, "tts")
    machine.change("service", "start", "tts")
    machine.fault("tts", "oom-at-start")
    machine.change("service", "restart", "tts", code=7)  # the way back fails too
    machine.ok("service", "edit", "tts", "--run-with", "process")
    assert path.exists()
    machine.clear()
    machine.change("recover", "--rollback")
    assert machine.states() == {"tts": "running"}
    assert path.exists()
    machine.change("service", "stop", "tts")
    assert not path.exists()
