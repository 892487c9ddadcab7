"""Users of the machine in the box, and gpumod as they run it."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

import gpumod

RULE = Path("/etc/polkit-1/rules.d/50-gpumod.rules")
needs_polkit = pytest.mark.skipif(not RULE.parent.is_dir(), reason="polkit is not installed")
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

    def argv(self, *words: str, as_root: bool = False) -> list[str]:
        uid, gid = (0, 0) if as_root else (self.entry.pw_uid, self.entry.pw_gid)
        drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return [*drop, sys.executable, "-m", "gpumod", "--json", "--home", str(self.home), *words]

    def environ(self, more: Mapping[str, str], *, as_root: bool = False) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {**kept, "HOME": "/root" if as_root else self.entry.pw_dir, **more}

    def gpumod(self, *words: str, code: int | None = 0, as_root: bool = False, **env: str) -> Any:
        argv, environ = self.argv(*words, as_root=as_root), self.environ(env, as_root=as_root)
        done = subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True)
        assert code in (None, done.returncode), (done.stdout[-3000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of the machine, as this user."""
        drop = ["setpriv", f"--reuid={self.entry.pw_uid}", f"--regid={self.entry.pw_gid}", "--clear-groups"]
        return subprocess.run([*drop, *words], cwd="/", capture_output=True, text=True)

    def pid(self, service: str) -> int | None:
        rows = self.gpumod("status")["services"]
        pid: int | None = next(row["pid"] for row in rows if row["id"] == service)
        return pid

    def forget(self, *, units: bool = True) -> None:
        """End all that this user runs and remove the user, and the system's units with them."""
        subprocess.run(["systemctl", "stop", self.manager], check=True)
        while _alive(self.entry.pw_uid):  # some are born meanwhile
            subprocess.run(["pkill", "-KILL", "-u", self.name])
            time.sleep(0.02)
        for unit in Path("/etc/systemd/system").glob("gpumod-*.service") if units else ():
            subprocess.run(["systemctl", "stop", unit.name])
            subprocess.run(["systemctl", "reset-failed", unit.name], stderr=subprocess.DEVNULL)
            unit.unlink()
        subprocess.run(["userdel", "--remove", "--force", self.name], check=True)  # what it says is shown by pytest


def _alive(uid: int) -> bool:
    """Whether anything of a user runs; what has ended and was not waited for does not."""
    running = psutil.process_iter(["uids", "status"])
    return any(p.info["uids"].real == uid and p.info["status"] != psutil.STATUS_ZOMBIE for p in running)


def documented(user: User) -> str:
    """The rule as the documentation gives it, filled in as it says."""
    (rule,) = re.findall(r"^```javascript\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    home_id = (user.home / "home-id").read_text().strip()
    return str(rule).replace("USER", user.name).replace("HOME_ID", home_id)
