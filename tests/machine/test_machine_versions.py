"""A runtime that is older than its driver: asked before anything is stopped, told in its own words, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]


def be_old(machine: Machine, version: str, folder: Path) -> str:
    """A vllm that says so of itself, notes what it was told, and serves without the flags of its time.

    It knows GPUs as the real one of its time does: before 0.24 by `int()` of each word.
    """
    real = Path(machine.sim.folder, "bin", "vllm")
    program = folder / f"vllm-{version}"
    lines = [
        f"#!{sys.executable} -IS",
        "import os, sys",
        "if sys.argv[1:] == ['--version']:",
        f"    print({version!r})",
        "    sys.exit(0)",
        f"if {tuple(map(int, version.split('.')))} < (0, 24):",
        "    [int(word) for word in os.environ['CUDA_VISIBLE_DEVICES'].split(',')]",
        "words = sys.argv[1:]",
        f"open({str(folder / 'told')!r}, 'w').write('\\n'.join(words))",
        "if '--task' in words:",
        "    at = words.index('--task')",
        "    words[at:at + 2] = ['--runner', 'pooling']",
        f"os.execv({str(real)!r}, ['vllm', *words])",
    ]
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    return str(program)


def test_an_older_vllm_is_told_in_its_own_words(machine: Machine, tmp_path: Path) -> None:
    program = be_old(machine, "0.9.2", tmp_path)
    machine.ok("service", "edit", "reranker", "--set", f"vllm_bin={program}")
    machine.change("service", "start", "reranker")
    told = (tmp_path / "told").read_text().splitlines()
    assert told[told.index("--task") + 1] == "embed"
    assert "--runner" not in told
    machine.ask("reranker")


def test_one_that_is_too_old_is_refused_before_anything_is_stopped(machine: Machine, tmp_path: Path) -> None:
    program = be_old(machine, "0.13.2", tmp_path)
    machine.change("service", "start", "embedding")
    machine.ok("mode", "create", "rank", "--services", "reranker")
    machine.ok("service", "edit", "reranker", "--set", f"vllm_bin={program}", "--set", "max_model_len=auto")
    refused = machine.change("switch", "rank", code=2)
    assert refused.error["code"] == "bad-service"
    assert "max_model_len auto needs vLLM 0.14.0 or newer, and its vllm is 0.13.2" in refused.error["why"]
    assert machine.states() == {"embedding": "running"}
    checks = machine.quick("doctor").json["checks"]
    assert any("needs vLLM 0.14.0" in check["message"] for check in checks if check["name"] == "service reranker")
    machine.ok("service", "edit", "reranker", "--set", "max_model_len=4096")
    machine.change("switch", "rank")
    machine.whole("rank")
