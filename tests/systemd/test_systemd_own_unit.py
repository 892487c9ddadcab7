"""gpumod as a systemd unit of somebody's runs it, a timer's for one: what it starts outlives that, or is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod.testing.supervisor_bench import is_alive

if TYPE_CHECKING:
    from tests.systemd.users import User

pytestmark = pytest.mark.systemd

PAGE = Path(__file__).parents[2] / "docs" / "watch.md"
In = Callable[..., Any]


def as_unit(ann: User, *words: str) -> list[str]:
    """gpumod's words, for a unit that is ann's by itself."""
    argv = ann.argv(*words)
    return argv[argv.index("--clear-groups") + 1 :]


def in_unit(ann: User, *properties: str, scope: str = "system", **env: str) -> In:
    """Runs gpumod as ann in a transient unit of either manager; `properties` are those of the unit."""
    more = [word for one in properties for word in ("-p", one)]
    more += [f"--setenv={name}={value}" for name, value in ann.environ(env).items()]
    if scope == "system":
        begin, environ = ["systemd-run", f"--uid={ann.name}"], None
    else:
        uid, gid = ann.entry.pw_uid, ann.entry.pw_gid
        begin = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "systemd-run", "--user"]
        environ = ann.environ({"XDG_RUNTIME_DIR": f"/run/user/{uid}"})

    def run(*words: str, code: int = 0) -> Any:
        argv = [*begin, "--quiet", "--wait", "--pipe", "--collect", *more, *as_unit(ann, *words)]
        done = subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True)
        assert done.returncode == code, (done.stdout[-3000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    return run


def test_what_is_started_in_a_unit_outlives_it_or_is_refused(ann: User) -> None:
    error = in_unit(ann, "Type=oneshot")("service", "start", "asr", code=9)["error"]
    assert error["code"] == "ends-with-unit", error
    assert "KillMode=process" in error["hint"]
    in_unit(ann, "Type=oneshot", "KillMode=process")("service", "start", "asr")
    time.sleep(1)
    pid = ann.pid("asr")
    assert pid is not None
    in_unit(ann, "Type=oneshot")("service", "restart", "asr", code=9)
    assert is_alive(pid)  # nothing was stopped for a start that cannot be
    in_unit(ann, "Type=oneshot", GPUMOD_END_WITH_UNIT="allow")("service", "restart", "asr")
    give_up = time.monotonic() + 20
    while ann.pid("asr") is not None:  # as it was allowed
        assert time.monotonic() < give_up


def test_room_is_made_for_a_command_only_where_what_is_stopped_can_come_back(ann: User) -> None:
    ann.gpumod("service", "start", "asr")
    pid = ann.pid("asr")
    for more in ((), ("RemainAfterExit=yes",)):
        error = in_unit(ann, "Type=oneshot", *more)("free", "20000", "--", "true", code=9)["error"]
        assert error["code"] == "ends-with-unit", error
        assert ann.pid("asr") == pid
    in_unit(ann, "Type=oneshot", "KillMode=process")("free", "20000", "--", "true")
    time.sleep(1)
    assert ann.pid("asr") not in (None, pid)


def test_a_timer_as_the_documentation_has_it_brings_back_what_ended(ann: User) -> None:
    subprocess.run(["systemctl", "start", ann.manager], check=True)
    ann.gpumod("mode", "create", "talk", "--services", "asr")
    ann.gpumod("switch", "talk")
    error = in_unit(ann, "Type=oneshot", scope="user")("service", "restart", "asr", code=9)["error"]
    assert "systemctl --user edit" in error["hint"], error
    service, timer = re.findall(r"^```ini\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    units = Path(ann.entry.pw_dir) / ".config/systemd/user"
    ann.run("mkdir", "-p", str(units))
    command = shlex.join(as_unit(ann, "watch", "--once"))
    unit = service.replace("%h/.local/bin/gpumod watch --once", command)
    assert command in unit
    (units / "gpumod-look.service").write_text(unit)
    (units / "gpumod-look.timer").write_text(timer)
    killed = ann.pid("asr")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    systemctl = ("env", f"XDG_RUNTIME_DIR=/run/user/{ann.entry.pw_uid}", "systemctl", "--user")
    for words in (("daemon-reload",), ("enable", "--now", "gpumod-look.timer"), ("start", "gpumod-look.service")):
        done = ann.run(*systemctl, *words)
        assert done.returncode == 0, done.stderr
    time.sleep(1)
    assert ann.run(*systemctl, "is-active", "gpumod-look.timer").stdout == "active\n"
    assert ann.pid("asr") not in (None, killed)
