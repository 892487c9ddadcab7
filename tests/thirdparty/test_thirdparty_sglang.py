"""The example of a third party's driver: small, its own tests pass, and its services are switched like all others."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.thirdparty.sites import lay_out, run

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gpumod-sglang"
SERVER = """#!{python}
import argparse, os, sys
if sys.argv[1:3] != ["-m", "sglang.launch_server"]:
    sys.exit("this environment holds SGLang alone")
parser = argparse.ArgumentParser(prog="launch_server.py")
parser.add_argument("--model-path", required=True)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=30000)
parser.add_argument("--mem-fraction-static", type=float)
parser.add_argument("--context-length", type=int)
parser.add_argument("--tp", type=int, default=1)
args = parser.parse_args(sys.argv[3:])
assert 0 < args.mem_fraction_static < 1
os.execv({python!r}, [{python!r}, "-m", "gpumod_sim.app", "--host", args.host, "--port", str(args.port)])
"""
"""Stands for the Python of SGLang's own environment; what it starts holds memory and answers HTTP."""


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    lay_out(EXAMPLE, site)
    return site


def test_it_is_small_and_nothing_of_ours_imports_it() -> None:
    text = (EXAMPLE / "gpumod_sglang.py").read_text()
    assert text.count("\n") < 60
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"gpumod"}
    ours = [path for folder in ROOT.glob("*/src") for path in folder.rglob("*.py")]
    assert ours
    assert not [path for path in ours if "gpumod_sglang" in path.read_text()]


@pytest.mark.slow
def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    done = run(site, "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
def test_it_is_switched_in_a_mode_beside_a_vllm(
    site: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    python = tmp_path / "python-of-sglang"
    python.write_text(SERVER.format(python=sys.executable))
    python.chmod(0o755)
    machine.ports["talk"] = machine.unused.pop()
    what = ("--driver", "sglang", "--port", str(machine.ports["talk"]), "--vram-mb", "12000", "--context-size", "8192")
    machine.ok("service", "add", "--id", "talk", *what, "--model-id", "org/model", "--set", f"python={python}")
    machine.ok("mode", "create", "talking", "--services", "talk,embedding-code")
    watch = machine.watch()
    machine.change("switch", "talking", watch=watch)
    machine.whole("talking")
    assert machine.states() == {"talk": "running", "embedding-code": "running"}
    assert machine.held()["talk"] == 12_000

    machine.change("service", "sleep", "talk", watch=watch)  # as it has no way of its own to sleep, by being stopped
    assert machine.states() == {"embedding-code": "running"}
    machine.change("switch", "talking", watch=watch)
    machine.change("switch", "code", watch=watch)
    machine.whole("code")
    assert "talk" not in machine.held()
    machine.change("switch", "blank", watch=watch)
    watch.check()
    machine.nothing_left()
