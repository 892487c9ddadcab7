"""The unit of `gpumod watch` under a real systemd: what it starts runs as if it had been started by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.systemd.users import User

pytestmark = pytest.mark.systemd

HF_HOME = '/srv/50% "off" \\n $HOME'
MODPROBE = Path("/usr/bin/nvidia-modprobe")


def waited(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    give_up = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < give_up, what
        time.sleep(0.1)
    return found


def environ(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if pair)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def again(user: User, service: str) -> int:
    """Kill a service and wait until `watch` has started it again: its new pid."""
    pid = user.pid(service)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    found: int = waited(lambda: (now := user.pid(service)) != pid and now)
    return found


def test_a_start_by_it_is_as_one_by_hand(ann: User) -> None:
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    for name in ("click.py", "rich.py"):  # the unit begins in her home
        (Path(ann.entry.pw_dir) / name).write_text("raise SystemExit('somebody else was imported')\n")
    ann.gpumod("settings", "set", "watch_interval_s", "1")
    ann.gpumod("mode", "create", "talk", "--services", "asr")
    shell = {
        "HF_HOME": HF_HOME,
        "PATH": f"{ann.entry.pw_dir}/my venv/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
    }
    unsaid = {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "https://ann:hf_secret@mirror", "TMPDIR": "/tmp"}
    unit = ann.gpumod("watch", "--install", **shell, **unsaid)["unit"]
    assert any("HF_ENDPOINT, TMPDIR of this shell" in note for note in unit["notes"]), unit
    assert "secret" not in Path(unit["path"]).read_text()
    ann.gpumod("switch", "talk", **shell)
    by_hand = ann.pid("asr")
    assert by_hand is not None
    before, was = environ(by_hand), status(by_hand)
    pid = again(ann, "asr")
    now = environ(pid)
    assert {name: now[name] for name in shell} == {name: before[name] for name in shell}
    assert "HF_TOKEN" not in now
    for name in ("NoNewPrivs", "Umask", "Uid"):
        assert status(pid)[name] == was[name], name
    assert not ann.gpumod("watch", "--install", **shell)["unit"]["changed"]
    ann.gpumod("watch", "--uninstall")


def test_root_installs_it_for_somebody(ann: User) -> None:
    ann.gpumod("settings", "set", "watch_interval_s", "1")
    ann.gpumod("mode", "create", "talk", "--services", "asr")
    install = ("watch", "--install", "--manager", "system")
    assert not MODPROBE.exists()
    unit = ann.gpumod(*install, as_root=True, HF_HOME="/srv/roots")["unit"]  # there is no such program: it starts
    assert any(f"it runs as {ann.name}" in note and "bin_path" in note for note in unit["notes"]), unit
    assert "/srv/roots" not in Path(unit["path"]).read_text()
    told = Path("/run/modprobe-told")
    MODPROBE.write_text(f'#!/bin/sh\necho "$(id -u) $*" >>{told}\nexit 1\n')
    MODPROBE.chmod(0o755)
    subprocess.run(["systemctl", "restart", unit["name"]], check=True)
    MODPROBE.unlink()
    assert told.read_text() == "0 -u -c=0\n"
    ann.gpumod("switch", "talk")
    pid = again(ann, "asr")
    assert status(pid)["Uid"].split()[0] == str(ann.entry.pw_uid)
    assert (status(pid)["NoNewPrivs"], status(pid)["Umask"]) == ("0", "0022")
    ann.gpumod("switch", "blank")
    ann.gpumod("watch", "--uninstall", "--manager", "system", as_root=True)
    assert not Path(unit["path"]).exists()


def test_root_waits_for_no_pipe_of_that_user(ann: User) -> None:
    ann.gpumod("mode", "create", "talk", "--services", "asr")
    name = ann.gpumod("watch", "--install", "--manager", "system", as_root=True)["unit"]["name"]
    ann.gpumod("watch", "--uninstall", "--manager", "system", as_root=True)
    folder, templates = Path(ann.entry.pw_dir) / ".config/systemd/user", ann.home / "templates"
    ann.run("mkdir", "-p", str(folder), str(templates))
    ann.run("mkfifo", str(folder / name), str(templates / "watch.service.j2"))
    install = ("watch", "--install", "--manager", "user")
    assert ann.gpumod(*install, code=None, as_root=True)["error"]["code"] == "bad-template"
    (templates / "watch.service.j2").unlink()
    assert ann.gpumod("doctor", code=None, as_root=True)["checks"]
    root = ann.gpumod(*install, as_root=True)["unit"]
    assert not root["path"].startswith(ann.entry.pw_dir)
    ann.gpumod("watch", "--uninstall", "--manager", "user", as_root=True)


def test_one_that_is_long_in_ending_is_waited_for_and_is_no_longer_enabled(ann: User) -> None:
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    unit = ann.gpumod("watch", "--install")["unit"]
    Path(f"{unit['path']}.d").mkdir()
    Path(f"{unit['path']}.d/slow.conf").write_text("[Service]\nExecStop=/bin/sleep 62\n")
    wanted = Path(unit["path"]).parent / "default.target.wants" / unit["name"]
    assert wanted.is_symlink()
    drop = ["setpriv", f"--reuid={ann.entry.pw_uid}", f"--regid={ann.entry.pw_gid}", "--clear-groups"]
    there = {**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{ann.entry.pw_uid}"}
    subprocess.run([*drop, "systemctl", "--user", "daemon-reload"], env=there, check=True)
    begin = time.monotonic()
    ended = subprocess.Popen(
        ann.argv("watch", "--uninstall"), env=ann.environ({}), cwd="/", stdout=subprocess.PIPE, text=True
    )
    waited(lambda: not wanted.is_symlink(), 30)
    assert ended.poll() is None
    out, _ = ended.communicate(timeout=110)
    assert ended.returncode == 0, out
    assert time.monotonic() - begin > 60
    assert not Path(unit["path"]).exists()
