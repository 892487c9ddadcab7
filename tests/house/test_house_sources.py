"""The sources: small modules, no mocks, nothing of one machine in them."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 400
# Words are put together from pieces, so that this file does not hold what it looks for.
FORBIDDEN = tuple(
    "".join(pieces)
    for pieces in (
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("test.py", "pi"),
        ("npm", "js.org"),
        ("registry", ".npm"),
        ("crates", ".io"),
        ("proxy.gol", "ang.org"),
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/op", "t/wheels"),
    )
)
BINARY = {".png", ".gguf", ".ico", ".gz"}


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree: what git tracks or would track; every file where there is no git (an sdist)."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def test_modules_are_small(record_property: pytest.RecordProperty) -> None:
    lengths = {path: text_of(path).count("\n") for path in tracked("*.py")}
    product = [length for path, length in lengths.items() if "src" in path.parts and path.name != "__init__.py"]
    record_property("median_lines", statistics.median(product))
    too_long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST}
    assert not too_long, f"split these modules (at most {LONGEST} lines): {too_long}"
    assert statistics.median(product) <= 150


def test_no_mocks() -> None:
    """ruff bans the import; this looks at every file and at the other ways to replace our own code."""
    guilty = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(name in {"mock", "unittest.mock", "pytest_mock"} for name in names):
                guilty.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr":
                guilty.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not guilty, f"mocks: {guilty}"


def test_ruff_bans_mocks() -> None:
    assert '"unittest.mock"' in text_of(ROOT / "pyproject.toml")


def test_nothing_of_one_machine() -> None:
    """No registry's host, no path of a machine: the tree works wherever it is cloned."""
    guilty = []
    for path in tracked():
        if path.suffix in BINARY:
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            guilty += [f"{path.relative_to(ROOT)}:{number}: {word}" for word in FORBIDDEN if word in line]
    assert not guilty, "\n".join(guilty)


def test_no_loose_ends() -> None:
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    guilty = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py")
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if mark.search(line)
    ]
    assert not guilty, f"finish or drop: {guilty}"


def test_no_lock_file() -> None:
    assert "uv.lock" in text_of(ROOT / ".gitignore").splitlines()
    assert not tracked("uv.lock", "**/uv.lock")


def test_test_files_have_unique_names() -> None:
    """Reports name a test file by its last part alone."""
    seen: dict[str, list[str]] = {}
    for path in tracked("**/test_*.py", "test_*.py"):
        seen.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: paths for name, paths in seen.items() if len(paths) > 1}
    assert not twice, twice
