"""What a distribution imports it declares, and what it declares it imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
FOR_TESTS = {"hypothesis", "pytest", "pytest_asyncio"}
"""What the shipped test helpers (`testing`) may import besides: their users have it."""


@cache
def distribution_of(module: str) -> str:
    """The distribution that a top-level module comes from, its name in the form that pyproject files use."""
    names = packages_distributions().get(module, [module])
    return re.sub(r"[-_.]+", "-", names[0]).lower()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def imported_by(folder: Path) -> set[str]:
    source = folder / "src"
    own = {path.stem for path in source.iterdir()}
    found = set()
    for path in source.rglob("*.py"):
        helper = "testing" in path.parts or path.stem == "gpumod_pytest"
        for module in imports(path):
            beside = path.with_name(f"{module}.py").exists()  # a script run by its path finds what lies beside it
            if module in own or beside or module in sys.stdlib_module_names or (helper and module in FOR_TESTS):
                continue
            found.add("gpumod-core" if module == "gpumod" else distribution_of(module))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_dependencies_are_what_is_imported(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    declared = {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in project["dependencies"]}
    used = imported_by(folder)
    assert not sorted(used - declared), "imported, not declared"
    # A plugin is nothing without the core, even where it only ships files.
    assert not sorted(declared - used - {"gpumod-core"}), "declared, not imported"
