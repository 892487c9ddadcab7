"""A home of its own for every test, the real program on it, and rules that hold for whatever a user types."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpumod.cli.main import root

CARD = "RTX 4090:24564"
EXIT_CODES = set(range(10))
SENTINEL = "as it was"


def _machine_fixtures() -> Any:
    """The fixtures of the simulated machine, which are those of the folder beside this one."""
    spec = spec_from_file_location("machine_fixtures", Path(__file__).parents[1] / "machine" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_fixtures = _machine_fixtures()
driver = _fixtures.driver
make_machine = _fixtures.make_machine
machine = _fixtures.machine


@dataclass(frozen=True)
class Outcome:
    """How the program ended, and what it printed where."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout; anything beside it is an error here."""
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        return self.json["error"]

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.stdout[:3000]}\n{self.stderr[:3000]}"

    def check(self) -> Outcome:
        """What holds whatever was typed: an exit code of the list, no traceback, no bug, no control sequence."""
        assert self.code in EXIT_CODES, self
        for text in (self.stdout, self.stderr):
            assert "Traceback" not in text, self
            assert "a bug in gpumod" not in text, self
            assert "\x1b" not in text, self
        return self


class Home:
    """A home and the program on it. `say` prints for people, `ask` prints JSON; both run in this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, *args: str, code: int | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        done = CliRunner().invoke(root, ["--home", str(self.path), *args], env=env)
        return expected(Outcome(done.exit_code, done.stdout, done.stderr), code)

    def ask(self, *args: str, code: int | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        done = self.say("--json", *args, code=code, env=env)
        assert isinstance(done.json, dict), done
        return done

    def init(self, cards: str = CARD) -> Home:
        self.ask("init", "--yes", "--sim", cards, code=0)
        return self

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "gpumod", "--home", str(self.path), *args]

    def process(
        self, *args: str, code: int | None = None, env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> Outcome:
        """Run the real program as a process, behind the words of `prefix`."""
        done = subprocess.run(
            [*prefix, *self.argv(*args)], capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}
        )
        return expected(Outcome(done.returncode, done.stdout, done.stderr), code)

    @property
    def database(self) -> Path:
        return self.path / "gpumod.db"

    def no_database(self) -> None:
        """Take the database away, with what SQLite keeps beside it."""
        for file in self.path.glob("gpumod.db*"):
            file.unlink()

    def sql(self, script: str) -> None:
        """Edit the database by hand."""
        connection = sqlite3.connect(self.database)
        try:
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.executescript(script)
            connection.commit()
        finally:
            connection.close()

    def services(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.ask("service", "list", code=0).json["services"]}

    def modes(self) -> dict[str, list[str]]:
        return {row["id"]: row["services"] for row in self.ask("mode", "list", code=0).json["modes"]}

    def add(self, name: str, port: int, *more: str, code: int | None = 0) -> Outcome:
        """Define a service of one's own that takes nothing."""
        command = ("--set", 'command=["python", "-c", "pass"]')
        return self.ask(
            "service",
            "add",
            "--id",
            name,
            "--driver",
            "fastapi",
            "--port",
            str(port),
            "--vram-mb",
            "0",
            *command,
            *more,
            code=code,
        )


def expected(done: Outcome, code: int | None) -> Outcome:
    done.check()
    assert code is None or done.code == code, done
    return done


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A clean environment, and a working folder that must be as it was in the end: nothing leaks out of a home."""
    for name in [name for name in os.environ if name.startswith("GPUMOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("GPUMOD_HOME", str(tmp_path / "not-this-one"))
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "sentinel").write_text(SENTINEL)
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in folder.iterdir()] == ["sentinel"]
    assert (folder / "sentinel").read_text() == SENTINEL


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as `init` leaves it, made once: a copy is much cheaper than the command."""
    home = Home(tmp_path_factory.mktemp("fresh") / "home").init()
    home.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return home.path


@pytest.fixture
def home(tmp_path: Path, fresh: Path) -> Home:
    """A simulated card of 24564 MiB with the presets; nothing runs."""
    home = Home(tmp_path / "home")
    beside = shutil.ignore_patterns("*.db-wal", "*.db-shm")  # empty, and gone as soon as nobody has it open
    shutil.copytree(fresh, home.path, ignore=beside)
    (home.path / "home-id").unlink()
    home.sql(f"UPDATE settings SET value = replace(value, '{fresh}', '{home.path}')")  # noqa: S608  # two paths of our own
    return home


@pytest.fixture
def bare(tmp_path: Path) -> Home:
    """A home that is not there yet."""
    return Home(tmp_path / "home")
