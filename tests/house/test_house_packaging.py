"""The distributions agree: versions, pins, licences, types, news."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
KINDS = ("added", "changed", "fixed", "removed")


def load(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


META = load(ROOT)
VERSION = META["project"]["version"]
PROJECTS = {load(folder)["project"]["name"]: folder for folder in FOLDERS}


def siblings(table: dict[str, Any]) -> list[Requirement]:
    """What a project asks for of its own family, extras included, itself left out."""
    project = table["project"]
    texts = [*project.get("dependencies", ()), *chain.from_iterable(project.get("optional-dependencies", {}).values())]
    wanted = [Requirement(text) for text in texts]
    return [r for r in wanted if r.name.startswith("gpumod") and r.name != project["name"]]


def test_all_distributions_are_here() -> None:
    assert set(PROJECTS) >= {"gpumod-core", "gpumod-presets", "gpumod-sim", "gpumod-vllm", "gpumod-llamacpp"}
    assert {r.name for r in siblings(META)} == set(PROJECTS), "the meta distribution reaches every other one"


@pytest.mark.parametrize("name", PROJECTS)
def test_one_version(name: str) -> None:
    assert load(PROJECTS[name])["project"]["version"] == VERSION


def test_the_meta_pins_exactly() -> None:
    assert {str(r.specifier) for r in siblings(META)} == {f"=={VERSION}"}


@pytest.mark.parametrize("name", PROJECTS)
def test_siblings_pin_the_core_by_a_compatible_range(name: str) -> None:
    wanted = siblings(load(PROJECTS[name]))
    if name == "gpumod-core":
        assert wanted == []
        return
    assert [r.name for r in wanted] == ["gpumod-core"]
    (specifier,) = wanted[0].specifier
    assert specifier.operator == "~="
    assert wanted[0].specifier.contains(VERSION)
    release = Version(VERSION)
    assert not wanted[0].specifier.contains(f"{release.major}.{release.minor + 1}.0")


@pytest.mark.parametrize("name", PROJECTS)
def test_every_dependency_has_a_lower_bound(name: str) -> None:
    for text in load(PROJECTS[name])["project"].get("dependencies", ()):
        assert re.search(r">=|~=", text), f"{name}: {text}"


@pytest.mark.parametrize("name", PROJECTS)
def test_metadata(name: str) -> None:
    folder = PROJECTS[name]
    project = load(folder)["project"]
    assert project["requires-python"] == META["project"]["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    lines_of_readme = (folder / "README.md").read_text().count("\n")
    assert lines_of_readme >= 5, "a README says what the distribution is for and how to begin"
    assert "Typing :: Typed" in project["classifiers"]
    (package,) = [path for path in (folder / "src").iterdir() if (path / "__init__.py").is_file()]
    assert (package / "py.typed").is_file()
    assert list((folder / "tests").rglob("test_*.py")), "tested alone, so it has tests of its own"


def test_constraints_name_no_registry_and_no_sibling() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    wrong = [line for line in lines if "://" in line or line.startswith(("-", "gpumod"))]
    assert not wrong
    pinned = {re.split(r"[=<>!~ ;]", line)[0].lower() for line in lines if not line.startswith("#")}
    for folder in FOLDERS:
        for text in load(folder)["project"].get("dependencies", ()):
            wanted = Requirement(text).name.lower()
            assert wanted.startswith("gpumod") or wanted in pinned, f"run `nox -s constraints`: {wanted} is not pinned"


def test_news_fragments_are_named_well() -> None:
    """`<distribution>-<what>.<kind>.md`; `gpumod` alone is the repository as a whole."""
    names = "|".join(sorted([*PROJECTS, "gpumod"], key=len, reverse=True))
    pattern = re.compile(rf"({names})-[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(KINDS)})\.md")
    fragments = [path for path in (ROOT / "news").iterdir() if path.name != "README.md"]
    wrong = [path.name for path in fragments if not pattern.fullmatch(path.name)]
    assert not wrong, f"name news like gpumod-core-planner.added.md: {wrong}"
    assert not [path.name for path in fragments if not path.read_text().strip()]
