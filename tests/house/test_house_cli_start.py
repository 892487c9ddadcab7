"""`gpumod --help` answers at once: what is heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "alembic",
    "asyncio",
    "docker",
    "httpx",
    "jinja2",
    "psutil",
    "pydantic",
    "pynvml",
    "requests",
    "rich",
    "sqlalchemy",
    "sqlmodel",
    "yaml",
)
PROGRAM = """
import json, sys
from gpumod.cli.main import main
try:
    sys.argv[0] = "gpumod"
    main()
except SystemExit as end:
    print(json.dumps({"exit": end.code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["exit"] in {0, None}
    assert done.stdout.strip()
    assert not sorted(set(HEAVY) & set(report["modules"]))


def test_python_m_gpumod_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "gpumod", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gpumod")
