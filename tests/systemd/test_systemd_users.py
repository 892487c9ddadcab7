"""Users without rights: their own manager, found or missing, and the system's, with and without polkit's leave."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpumod

pytestmark = pytest.mark.systemd

RULE = Path("/etc/polkit-1/rules.d/50-gpumod.rules")
DOCS = Path(__file__).parents[2] / "docs" / "systemd.md"


class User:
    """A user of this machine, whose gpumod runs as from cron: nothing of a session is in its environment."""

    def __init__(self, name: str) -> None:
        if os.environ.get("GPUMOD_TEST_BOX") != "1":
            raise RuntimeError("this makes users and ends all that they run: never outside of the box")
        subprocess.run(["useradd", "--create-home", name], check=True)
        self.name = name
        self.entry = pwd.getpwnam(name)
        self.home = Path(self.entry.pw_dir) / ".local" / "share" / "gpumod"
        self.manager = f"user@{self.entry.pw_uid}.service"
        for place in (sys.executable, gpumod.__file__, json.__file__, os.path.realpath(sys.executable)):
            for folder in Path(place).parents:  # the interpreter may lie in root's home
                folder.chmod(folder.stat().st_mode | 0o055)

    def gpumod(self, *words: str, code: int | None = 0, as_root: bool = False, **env: str) -> Any:
        uid, gid = (0, 0) if as_root else (self.entry.pw_uid, self.entry.pw_gid)
        drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        home = "/root" if as_root else self.entry.pw_dir
        argv = [*drop, sys.executable, "-m", "gpumod", "--json", "--home", str(self.home), *words]
        done = subprocess.run(argv, env={**kept, "HOME": home, **env}, cwd="/", capture_output=True, text=True)
        assert code in (None, done.returncode), (done.stdout[-3000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    def pid(self, service: str) -> int | None:
        rows = self.gpumod("status")["services"]
        pid: int | None = next(row["pid"] for row in rows if row["id"] == service)
        return pid

    def forget(self) -> None:
        subprocess.run(["systemctl", "stop", self.manager], check=True)
        subprocess.run(["pkill", "-KILL", "-u", self.name])
        while subprocess.run(["pgrep", "-u", self.name], stdout=subprocess.DEVNULL).returncode == 0:
            time.sleep(0.02)
        for unit in Path("/etc/systemd/system").glob("gpumod-*.service"):
            subprocess.run(["systemctl", "stop", unit.name])
            unit.unlink()
        subprocess.run(["userdel", "--remove", self.name], check=True, capture_output=True)


@pytest.fixture
def ann() -> Iterator[User]:
    ann = User("ann")
    ann.gpumod("init", "--sim", "RTX 4090:24564", "--yes")
    yield ann
    ann.forget()


def test_from_cron_the_users_manager_is_found(ann: User) -> None:
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    ann.gpumod("settings", "set", "supervisor", "systemd-user")
    ann.gpumod("service", "start", "tts")
    pid = ann.pid("tts")
    assert Path(f"/proc/{pid}").stat().st_uid == ann.entry.pw_uid
    assert Path(f"/proc/{pid}/cgroup").read_text().rstrip().endswith("gpumod-tts.service")  # a usual home: a short name
    unit = ann.gpumod("service", "unit", "tts", XDG_RUNTIME_DIR="/nowhere")
    assert (unit["there"], unit["difference"]) == (True, "")
    assert Path(unit["path"]).is_relative_to(ann.entry.pw_dir)
    ann.gpumod("service", "stop", "tts", XDG_RUNTIME_DIR="/nowhere")
    ann.gpumod("service", "remove", "tts", "--cascade")
    assert not Path(unit["path"]).exists()


def test_a_manager_that_ends_with_the_session_is_told(ann: User) -> None:
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    ann.gpumod("settings", "set", "supervisor", "systemd-user")
    told = {check["name"]: check["hint"] for check in ann.gpumod("doctor", code=1)["checks"]}
    assert told["linger"] == "loginctl enable-linger"
    subprocess.run(["loginctl", "enable-linger", ann.name], check=True)
    told = {check["name"]: check["hint"] for check in ann.gpumod("doctor")["checks"]}
    assert told["linger"] == ""
    subprocess.run(["loginctl", "disable-linger", ann.name], check=True)


def test_without_a_manager_there_is_never_a_second_copy(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-user")
    error = ann.gpumod("service", "start", "tts", code=9)["error"]
    assert error["code"] == "no-user-manager"
    assert "enable-linger" in error["hint"]
    assert not list(ann.home.glob("services/tts"))

    subprocess.run(["systemctl", "start", ann.manager], check=True)
    ann.gpumod("service", "start", "tts")
    pid = ann.pid("tts")
    runtime = Path(f"/run/user/{ann.entry.pw_uid}")
    (runtime / "systemd").rename(runtime / "hidden")  # the manager and the service go on, out of reach
    row = next(row for row in ann.gpumod("status")["services"] if row["id"] == "tts")
    assert row["state"] == "unknown"
    assert "user manager" in row["last_error"]
    for words in (("service", "restart", "tts"), ("service", "stop", "tts"), ("switch", "blank")):
        assert ann.gpumod(*words, code=9)["error"]["code"] == "no-user-manager"
    ann.gpumod("settings", "set", "supervisor", "process")
    assert ann.gpumod("service", "restart", "tts", code=9)["error"]["code"] == "no-user-manager"
    assert Path(f"/proc/{pid}").exists()
    (runtime / "hidden").rename(runtime / "systemd")
    assert ann.pid("tts") == pid
    ann.gpumod("service", "stop", "tts")


def test_the_system_manager_needs_root_for_units_and_polkit_for_starts(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    error = ann.gpumod("service", "start", "tts", code=9)["error"]
    assert error["code"] == "unit-needs-root"
    assert "gpumod service unit tts --write" in error["hint"]

    written = ann.gpumod("service", "unit", "tts", "--write", as_root=True)
    assert written["written"]
    assert f"\nUser={ann.name}\n" in written["text"]
    assert Path(written["path"]).parent == Path("/etc/systemd/system")
    assert ".".join(Path(written["path"]).name.split(".")[2:]) == "service"  # not root's home: its id is in the name
    owners = {path.stat().st_uid for path in [ann.home, *ann.home.rglob("*")]}
    assert owners == {ann.entry.pw_uid}

    error = ann.gpumod("service", "start", "tts", code=6)["error"]
    assert error["code"] == "not-allowed"
    assert "polkit" in error["hint"]
    checks = {check["name"]: check for check in ann.gpumod("doctor", code=None)["checks"]}
    assert checks["systemd system"]["level"] == "ok"
    assert checks["polkit"]["level"] == ("unknown" if RULE.parent.is_dir() else "warning")  # she may not read the rules
    assert "docs/systemd.md" in checks["polkit"]["hint"]


def test_root_makes_no_unit_of_what_another_user_can_write(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    own = ann.home / "templates" / "unit.service.j2"
    shown = ann.gpumod("template", "show", "unit.service.j2")
    own.parent.mkdir()
    own.write_text(shown["text"].replace("Type=exec", "Type=exec\nUser=root"))
    os.chown(own, ann.entry.pw_uid, ann.entry.pw_gid)
    error = ann.gpumod("service", "unit", "tts", "--write", as_root=True, code=1)["error"]
    assert error["code"] == "foreign-template"
    os.chown(own, 0, 0)
    assert ann.gpumod("service", "unit", "tts", "--write", as_root=True)["written"]


@pytest.mark.skipif(not RULE.parent.is_dir(), reason="polkit is not installed")
def test_the_rule_that_the_documentation_gives_suffices(ann: User) -> None:
    ann.gpumod("settings", "set", "supervisor", "systemd-system")
    ann.gpumod("service", "unit", "tts", "--write", as_root=True)
    rule = DOCS.read_text().split("```javascript\n")[1].split("```")[0]
    RULE.write_text(rule.replace("USER", ann.name))
    try:
        subprocess.run(["systemctl", "restart", "polkit"], check=True)
        ann.gpumod("service", "start", "tts")
        assert Path(f"/proc/{ann.pid('tts')}").stat().st_uid == ann.entry.pw_uid
        ann.gpumod("service", "restart", "tts")
        ann.gpumod("service", "stop", "tts")
        drop = ["setpriv", f"--reuid={ann.entry.pw_uid}", f"--regid={ann.entry.pw_gid}", "--clear-groups"]
        another = [*drop, "systemctl", "--no-ask-password", "restart", "dbus.service"]
        assert subprocess.run(another, capture_output=True).returncode != 0
        # What systemd would read as root, were it told to, stays root's.
        secret = Path.home() / "secret.env"
        secret.write_text("LEAKED=1\n")
        secret.chmod(0o600)
        (file,) = ann.home.glob("services/tts/.run/environment")
        file.unlink()
        file.symlink_to(secret)
        (unit,) = Path("/etc/systemd/system").glob("gpumod-tts.*.service")
        subprocess.run([*drop, "systemctl", "--no-ask-password", "start", unit.name], check=True)
        words = ["journalctl", "-q", "-o", "cat", "-u", unit.name]
        give_up = time.monotonic() + 20
        while b"ermission denied" not in subprocess.run(words, capture_output=True).stdout:
            assert time.monotonic() < give_up, "its shell was to be refused the file"
            time.sleep(0.05)
    finally:
        RULE.unlink()
