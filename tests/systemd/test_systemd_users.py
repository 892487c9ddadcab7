"""Users without rights: their own manager, found or missing, and what root makes for them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.systemd.users import User

pytestmark = pytest.mark.systemd


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
    assert ann.gpumod("service", "unit", "tts", XDG_RUNTIME_DIR="/run/user/0") == unit  # as `su` leaves it: root's
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
