"""The system's manager for a user without rights: root writes units, polkit's leave is asked before the first stop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.systemd.users import RULE, User, documented, needs_polkit

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.systemd

UNITS = Path("/etc/systemd/system")
Allow = Callable[[str], None]


def by_root(user: User, *services: str) -> list[Path]:
    """The units of a user's services, as root writes them for the system's manager."""
    return [Path(user.gpumod("service", "unit", s, "--write", as_root=True)["path"]) for s in services]


def test_root_writes_units_and_without_a_rule_nothing_is_touched(ann: User) -> None:
    ann.gpumod("mode", "create", "before", "--services", "tts")
    ann.gpumod("mode", "create", "after", "--services", "asr")
    ann.gpumod("switch", "before")  # as a plain process
    pid = ann.pid("tts")
    ann.gpumod("service", "edit", "asr", "--run-with", "systemd-system")
    error = ann.gpumod("switch", "after", code=9)["error"]
    assert error["code"] == "unit-needs-root"
    assert f"gpumod --home {ann.home} service unit asr --write" in error["hint"]
    assert f"gpumod-asr.{(ann.home / 'home-id').read_text().strip()}.service is not there" in error["message"]

    written = ann.gpumod("service", "unit", "asr", "--write", as_root=True)
    assert written["written"]
    assert f"\nUser={ann.name}\n" in written["text"]
    assert Path(written["path"]).parent == UNITS
    home_id = (ann.home / "home-id").read_text().strip()
    assert Path(written["path"]).name == f"gpumod-asr.{home_id}.service"  # not root's home: its id is in the name
    owners = {path.stat().st_uid for path in [ann.home, *ann.home.rglob("*")]}
    assert owners == {ann.entry.pw_uid}

    for words in (("switch", "after"), ("service", "start", "asr")):
        error = ann.gpumod(*words, code=9)["error"]
        assert error["code"] == "not-allowed"
        assert "polkit" in error["hint"]
        assert "docs/systemd.md" in error["hint"]
    checks = {check["name"]: check for check in ann.gpumod("doctor", code=None)["checks"]}
    assert checks["systemd system"]["level"] == "ok"
    assert checks["polkit"]["level"] == ("unknown" if RULE.parent.is_dir() else "warning")  # she may not read the rules
    assert "docs/systemd.md" in checks["polkit"]["hint"]
    status = ann.gpumod("status")
    assert (status["mode"], status["open_run"]) == ("before", None)
    assert {row["id"]: row["pid"] for row in status["services"] if row["pid"]} == {"tts": pid}
    assert [run["command"] for run in ann.gpumod("history", "list")["runs"]] == ["switch before"]


def test_all_units_that_only_root_may_write_are_told_at_once(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    ann.gpumod("mode", "create", "both", "--services", "asr,tts")
    error = ann.gpumod("switch", "both", code=9)["error"]
    assert error["code"] == "unit-needs-root"
    assert error["message"].count("is not there") == 2
    commands = [f"gpumod --home {ann.home} service unit {service} --write" for service in ("asr", "tts")]
    assert error["hint"].startswith(f"as root: {' && '.join(commands)};")
    checks = ann.gpumod("doctor", code=1)["checks"]
    (told,) = [check for check in checks if "only root may do that" in check["message"]]
    rows = ann.gpumod("service", "list")["services"]
    services = [row["id"] for row in rows if row["host"] is None]
    assert told["name"] == "services"
    assert told["message"].startswith(f"{', '.join(services)}: units are to be written")
    assert all(f"service unit {service} --write" in told["hint"] for service in services)
    (asr, _) = by_root(ann, "asr", "tts")
    with asr.open("a") as file:
        file.write("# by hand\n")
    error = ann.gpumod("switch", "both", code=9)["error"]
    assert error["message"].endswith(
        f"a unit is to be written, and only root may do that: {asr} is not as it should be"
    )


@needs_polkit
def test_with_the_documented_rule_a_whole_switch_works(ann: User, allow: Allow) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    ann.gpumod("mode", "create", "both", "--services", "asr,tts")
    by_root(ann, "asr", "tts")
    allow(documented(ann))
    ann.gpumod("switch", "both")
    assert Path(f"/proc/{ann.pid('tts')}").stat().st_uid == ann.entry.pw_uid
    # One that has failed is started again: systemd has to be told to forget that.
    ann.gpumod("service", "stop", "tts")
    ann.gpumod("sim", "fault", "tts", "oom-at-start")
    ann.gpumod("service", "start", "tts", code=6)
    ann.gpumod("sim", "fault", "tts", "--clear")
    ann.gpumod("switch", "both")
    ann.gpumod("switch", "blank")


@needs_polkit
def test_what_may_no_longer_be_stopped_is_told_before_the_first_stop(ann: User, allow: Allow) -> None:
    ann.gpumod("service", "start", "asr")  # a plain process, which could be stopped
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    by_root(ann, "tts")
    allow(documented(ann))
    ann.gpumod("service", "start", "tts")
    allow("")
    pids = {row["id"]: row["pid"] for row in ann.gpumod("status")["services"] if row["pid"]}
    assert set(pids) == {"asr", "tts"}
    assert ann.gpumod("switch", "blank", code=9)["error"]["code"] == "not-allowed"
    assert {row["id"]: row["pid"] for row in ann.gpumod("status")["services"] if row["pid"]} == pids
    allow(documented(ann))
    ann.gpumod("switch", "blank")


@needs_polkit
@pytest.mark.parametrize("verb", ["start", "stop", "reset-failed"])
def test_no_verb_of_the_documented_rule_is_too_many(ann: User, allow: Allow, verb: str) -> None:
    rule = documented(ann)
    assert '["start", "stop", "reset-failed"]' in rule
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    by_root(ann, "tts")
    allow(rule.replace(f'"{verb}"', '"nothing"'))
    words = ["service", "start", "tts"]
    if verb == "reset-failed":  # is asked of what is up
        ann.gpumod(*words)
        words[1] = "stop"
    elif verb == "start":  # which is only known at its turn: nothing else was to be stopped
        assert ann.gpumod(*words, code=6)["error"]["code"] == "not-allowed"
        return
    assert ann.gpumod(*words, code=9)["error"]["code"] == "not-allowed"


@pytest.fixture
def theirs() -> Iterator[str]:
    """A unit of somebody's under the system's manager, which is down; and one that needs it, which is up."""
    (UNITS / "theirs.service").write_text("[Service]\nExecStart=/bin/sh -c 'exec sleep 600' x --port 9000\n")
    (UNITS / "above.service").write_text("[Unit]\nRequires=theirs.service\n[Service]\nExecStart=/bin/sleep 600\n")
    yield "theirs.service"
    for name in ("above.service", "theirs.service"):
        subprocess.run(["systemctl", "stop", name])
        (UNITS / name).unlink()


def test_an_adopted_unit_that_may_not_be_started_is_told_before_the_first_stop(ann: User, theirs: str) -> None:
    ann.gpumod("mode", "create", "before", "--services", "tts")
    ann.gpumod("switch", "before")  # as a plain process, which could be stopped
    pid = ann.pid("tts")
    ann.gpumod("service", "adopt", theirs, "--vram-mb", "100")
    ann.gpumod("mode", "create", "with", "--services", "theirs")
    for words in (("switch", "with"), ("service", "start", "theirs")):
        error = ann.gpumod(*words, code=9)["error"]
        assert error["code"] == "not-allowed"
        assert "docs/adoption.md" in error["hint"]
    subprocess.run(["systemctl", "start", theirs], check=True)
    assert ann.gpumod("service", "stop", "theirs", code=9)["error"]["code"] == "not-allowed"
    assert ann.pid("tts") == pid
    assert [run["command"] for run in ann.gpumod("history", "list")["runs"]] == ["switch before"]
    ann.gpumod("service", "release", "theirs", "--cascade")


@needs_polkit
def test_asking_for_leave_stops_nothing_that_needs_an_adopted_unit(ann: User, allow: Allow, theirs: str) -> None:
    ann.gpumod("service", "adopt", theirs, "--vram-mb", "100")
    subprocess.run(["systemctl", "start", "above.service"], check=True)
    subprocess.run(["systemctl", "kill", theirs], check=True)  # it ends by itself, which those that need it outlive
    give_up = time.monotonic() + 20
    while subprocess.run(["systemctl", "is-active", "--quiet", theirs]).returncode == 0:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    rule = documented(ann).replace("/^gpumod-[A-Za-z0-9._-]+", "/^theirs\\.service$|^gpumod-[A-Za-z0-9._-]+")
    allow(rule.replace('"start"', '"nothing"'))  # so the question is answered, and nothing follows
    assert ann.gpumod("service", "start", "theirs", code=6)["error"]["code"] == "not-allowed"
    assert subprocess.run(["systemctl", "is-active", "--quiet", "above.service"]).returncode == 0
    ann.gpumod("service", "release", "theirs")


def refused(user: User, words: Sequence[str]) -> str:
    done = user.run(*words)
    assert done.returncode != 0, words
    return done.stderr


@needs_polkit
def test_the_documented_rule_allows_nothing_else(ann: User, allow: Allow) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    (own,) = by_root(ann, "tts")
    others = [UNITS / name for name in ("gpumod-chat.service", "gpumod-x.0123456789ab.service", "x.service")]
    others.append(UNITS / own.name.replace("gpumod-", "xgpumod-"))
    for unit in others:
        unit.write_text("[Service]\nExecStart=/bin/sleep 60\n")
    allow(documented(ann))
    systemctl = ("systemctl", "--no-ask-password")
    assert ann.run(*systemctl, "stop", own.name).returncode == 0
    bob = User("bob")
    try:
        for verb in ("start", "stop", "restart"):
            assert "uthentication required" in refused(bob, (*systemctl, verb, own.name))
    finally:
        bob.forget(units=False)
    for verb in ("restart", "try-restart", "reload", "kill", "freeze", "clean", "enable", "disable", "mask", "revert"):
        refused(ann, (*systemctl, verb, own.name))
    refused(ann, (*systemctl, "set-property", own.name, "CPUWeight=10"))
    refused(ann, (*systemctl, "set-property", "--runtime", own.name, "User=root"))
    for unit in others:
        for verb in ("start", "stop", "restart"):
            assert "uthentication required" in refused(ann, (*systemctl, verb, unit.name))
    for verb in ("daemon-reload", "daemon-reexec", "reboot", "set-environment"):
        refused(ann, (*systemctl, verb, *(["A=1"] if verb == "set-environment" else [])))
    # A unit of any text, under a name that would be allowed: it would run as root.
    made = own.name.replace("gpumod-tts", "gpumod-made")
    refused(ann, ("systemd-run", "--no-ask-password", f"--unit={made}", "/bin/sleep", "60"))
    assert subprocess.run(["systemctl", "is-active", made], capture_output=True, text=True).stdout.strip() == "inactive"
    for unit in others:
        unit.unlink()


@needs_polkit
def test_a_unit_reads_nothing_that_its_user_may_not(ann: User, allow: Allow) -> None:
    """What systemd would read as root, were it told to, stays root's."""
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    (unit,) = by_root(ann, "tts")
    allow(documented(ann))
    ann.gpumod("service", "start", "tts")
    ann.gpumod("service", "stop", "tts")
    secret = Path.home() / "secret.env"
    secret.write_text("LEAKED=1\n")
    secret.chmod(0o600)
    (file,) = ann.home.glob("services/tts/.run/environment")
    file.unlink()
    file.symlink_to(secret)
    ann.run("systemctl", "--no-ask-password", "start", unit.name)  # its shell may end before systemd calls it started
    words = ["journalctl", "-q", "-o", "cat", "-u", unit.name]
    give_up = time.monotonic() + 20
    while b"ermission denied" not in subprocess.run(words, capture_output=True).stdout:
        assert time.monotonic() < give_up, "its shell was to be refused the file"
        time.sleep(0.05)


def test_a_unit_that_only_root_may_remove_is_told(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    tts, asr = by_root(ann, "tts", "asr")
    ann.gpumod("settings", "set", "supervisor", "process")
    assert tts.exists()
    told = {check["name"]: check for check in ann.gpumod("doctor", code=1)["checks"] if "is left" in check["message"]}
    assert set(told) == {"service tts", "service asr"}
    assert str(tts) in told["service tts"]["hint"]
    ann.gpumod("service", "start", "tts")  # it is no hindrance
    ann.gpumod("service", "stop", "tts")
    (note,) = ann.gpumod("service", "remove", "tts", "--cascade")["notes"]
    assert str(tts) in note
    ann.gpumod("service", "remove", "asr", "--cascade", as_root=True)
    assert not asr.exists()
