"""Errors: one code ends a command with one exit status, wherever it is raised."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from gpumod.domain import errors
from gpumod.domain.errors import GpumodError

ROOT = Path(__file__).parents[2]
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GpumodError)}


def raised(text: str) -> Iterator[tuple[str, int]]:
    """The code and the exit status of each error that is made with its code written out."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            code = node.args[0] if node.args else None
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield code.value, KINDS[node.func.id].exit_code


def test_one_code_has_one_exit_status() -> None:
    statuses: dict[str, dict[int, list[str]]] = {}
    for path in sorted(ROOT.glob("gpumod-*/src/**/*.py")):
        for code, status in raised(path.read_text()):
            statuses.setdefault(code, {}).setdefault(status, []).append(path.name)
    assert len(statuses) > 100
    assert {code: places for code, places in statuses.items() if len(places) > 1} == {}
