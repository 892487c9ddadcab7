"""Ctrl-C before a command has begun: what is sure of it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpumod.cli.failures import INTERRUPTED
from tests.cases import first

AT_THE_DATABASE = """
import signal, sys
sys.addaudithook(lambda event, _: signal.raise_signal(signal.SIGINT) if event == "sqlite3.connect" else None)
from gpumod.cli.main import main
main()
"""

WHERE_NOBODY_HEARS = """
import signal, sys
class Lost:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(lambda event, args: Lost() and None if event == "import" and args[0] == "gpumod.bootstrap" else None)
from gpumod.cli.main import main
main()
"""

CASES = [(("switch", "code"), "nothing was changed"), (("free", "100"), ""), (("status",), "")]


@pytest.mark.parametrize(("command", "sure"), first(1, CASES))
def test_a_key_before_the_command_has_begun(command: tuple[str, ...], sure: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", AT_THE_DATABASE, "--home", str(tmp_path), *command, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == INTERRUPTED, done
    told = json.loads(done.stdout)["error"]
    assert (told["code"], told["why"]) == ("interrupted", sure)


def test_a_key_that_a_library_lost_is_told_again(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WHERE_NOBODY_HEARS, "--home", str(tmp_path), "status", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == INTERRUPTED, done
    assert json.loads(done.stdout)["error"]["code"] == "interrupted"
    assert "Traceback" not in done.stderr
