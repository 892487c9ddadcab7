"""docs/templates.md says what is: its commands run as shown, its templates are templates, its lists are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.launches import Resolved
from gpumod.adapters.systemd.rendering import Rendering
from gpumod.adapters.templates import FILTERS
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch
from tests.docs.pages import ROOT, commands, gpumod, run

PAGE = (ROOT / "docs" / "templates.md").read_text()
BLOCKS = re.findall(r"^```jinja\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NAMES = ("nicer.j2", "alone.j2", "broken.j2", "empty.j2")


def asked(home: Path, *args: str) -> Any:
    done = gpumod(home, "--json", *args)
    assert done.exit_code == 0, done.stdout
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there yet, and the page's files in the folder where one is."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, text in zip(NAMES, BLOCKS, strict=True):
        assert f"`{name}`" in PAGE
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    return tmp_path / "home"


def test_the_commands_run_as_shown_and_do_what_is_said(home: Path) -> None:
    units: dict[int, str] = {}
    shown = commands("docs/templates.md")
    for number, (args, code) in enumerate(shown):
        done = run(home, args, code)
        if args[:2] == ["service", "unit"] and not code:
            units[number] = done.stdout
    usual, nicer, quiet, alone = units.values()
    assert "Nice=5" not in usual + alone
    assert "\nNice=5\nMemoryMax=48G\n" in nicer
    assert "\nNice=5\nMemoryMax=48G\n" in quiet
    assert "made of fastapi.service.j2" in nicer
    assert "made of quiet.service.j2" in quiet
    assert "NoNewPrivileges=" in usual
    assert "NoNewPrivileges=" not in alone
    assert asked(home, "service", "unit", "tts")["template"] == "fastapi.service.j2"  # all is as it was
    assert {row["source"] for row in asked(home, "template", "list")["templates"]}.isdisjoint({"yours"})


def test_what_is_said_of_who_wins(home: Path, tmp_path: Path) -> None:
    gpumod(home, "init", "--sim", "RTX 4090:24564")
    gpumod(home, "settings", "set", "supervisor", "systemd-user")

    def template() -> str:
        return str(asked(home, "service", "unit", "tts")["template"])

    def priority() -> list[str]:
        return re.findall(r"^Nice=(\d+)$", asked(home, "service", "unit", "tts")["text"], re.MULTILINE)

    own = tmp_path / "anywhere.j2"
    own.write_text(BLOCKS[0].replace("Nice=5", "Nice=7"))
    assert template() == "fastapi.service.j2"
    asked(home, "service", "edit", "tts", "--unit-template", str(own))
    assert (template(), priority()) == (str(own), ["7"])
    asked(home, "template", "edit", "fastapi.service.j2", "-f", "nicer.j2")
    assert priority() == ["5"]  # yours under the driver's name wins over a path
    (home / "templates" / "quiet.service.j2").write_text(BLOCKS[0].replace("Nice=5", "Nice=9"))
    asked(home, "service", "edit", "tts", "--unit-template", "quiet.service.j2")
    assert priority() == ["9"]  # and one by its name over both
    asked(home, "template", "edit", "unit.service.j2", "-f", "alone.j2")
    assert priority() == []  # which now extends yours, that has no such block


def rows(heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_every_variable_and_filter_is_listed(tmp_path: Path) -> None:
    service, launch = Service(id="svc", driver="none"), Launch(argv=("true",))
    made = Rendering(tmp_path, "0" * 12, Settings(), "user", [])
    given = made.variables(service, launch, Resolved("/bin/true", ("true",), {}, {}, Path("/")), "x")
    assert rows("Variables") == set(given)
    assert rows("Filters") == {word.__name__ for word in FILTERS}
