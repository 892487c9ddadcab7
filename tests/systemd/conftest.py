"""Benches under the managers of a real systemd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.systemd import SystemdSupervisor
from gpumod.adapters.systemd.manager import Scope
from gpumod.testing.supervisor_bench import Bench
from tests.systemd.users import RULE, User

HOME_ID = "0123456789ab"
FOLDERS = {"system": Path("/etc/systemd/system"), "user": Path.home() / ".config/systemd/user"}


class UnitBench(Bench):
    """A bench under one of the two managers."""

    supervisor: SystemdSupervisor

    def __init__(self, home: Path, scope: Scope, folders: Sequence[Path] = (), home_id: str = HOME_ID) -> None:
        if os.environ.get("GPUMOD_TEST_BOX") != "1":
            raise RuntimeError("this writes units of root's and stops what it finds: never outside of the box")
        self.scope: Scope = scope
        self.folders = folders
        self.home_id = home_id
        home.mkdir(mode=0o700, exist_ok=True)
        super().__init__(home, lambda _home, _settings: self.another())

    def another(self, **settings: object) -> SystemdSupervisor:
        changed = self.settings.model_copy(update=settings)
        return SystemdSupervisor(self.home, self.home_id, changed, SystemClock(), self.folders, scope=self.scope)

    def systemctl(self, *words: str) -> str:
        scope = ["--user"] if self.scope == "user" else []
        done = subprocess.run(["systemctl", *scope, *words], capture_output=True, text=True)
        return done.stdout.strip()

    def name(self, service: str = "svc") -> str:
        return f"gpumod-{service}.{self.home_id}.service"

    def path(self, service: str = "svc") -> Path:
        return FOLDERS[self.scope] / self.name(service)

    def shown(self, property_: str, service: str = "svc") -> str:
        return self.systemctl("show", "--value", "-p", property_, self.name(service))

    def reloads(self) -> int:
        """How often the manager has read its units again: it logs that each time."""
        subprocess.run(["journalctl", "--sync"], check=True)
        match = "_SYSTEMD_UNIT=user@0.service" if self.scope == "user" else "_PID=1"
        words = ["journalctl", "-q", "--no-pager", "-o", "cat", match]
        told = subprocess.run(words, capture_output=True, text=True, errors="replace", check=True).stdout.splitlines()
        return sum(line.startswith("Reloading") and "finished" not in line for line in told)

    def sweep(self) -> None:
        for service in {handle.service for handle in self.handles}:
            self.systemctl("kill", "--signal=KILL", self.name(service))
            self.systemctl("stop", self.name(service))
            self.systemctl("reset-failed", self.name(service))
            self.path(service).unlink(missing_ok=True)
        super().sweep()


@pytest.fixture(params=["system", "user"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UnitBench]:
    bench = UnitBench(tmp_path / "home", request.param)
    yield bench
    bench.sweep()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[UnitBench]:
    """The system manager alone."""
    bench = UnitBench(tmp_path / "home", "system")
    yield bench
    bench.sweep()


@pytest.fixture
def ann() -> Iterator[User]:
    ann = User("ann")
    ann.gpumod("init", "--sim", "RTX 4090:24564", "--yes")
    yield ann
    ann.forget()


@pytest.fixture
def allow() -> Iterator[Callable[[str], None]]:
    """Puts a rule in force: polkit has read it when this returns."""

    def reread() -> None:
        subprocess.run(["systemctl", "reset-failed", "polkit"])  # or many tests in a few seconds reach its start limit
        subprocess.run(["systemctl", "restart", "polkit"], check=True)

    def put(rule: str) -> None:
        RULE.write_text(rule)
        RULE.chmod(0o644)
        reread()

    yield put
    RULE.unlink(missing_ok=True)
    reread()
