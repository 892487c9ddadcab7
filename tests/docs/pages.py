"""Pages of the documentation: the commands in them, run in this process."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from click.testing import CliRunner, Result

from gpumod.cli.main import root

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^\$ (gpumod .*?)(?:\s+# exit (\d+))?$", re.MULTILINE)


def gpumod(home: Path, *args: str) -> Result:
    """The program, in this process: its start is measured and tested elsewhere."""
    nothing_set = {name: None for name in os.environ if name.startswith("GPUMOD_")}
    return CliRunner().invoke(root, ["--home", str(home), *args], env=nothing_set)


def commands(page: str) -> list[tuple[list[str], int]]:
    """The words of each command that a page shows, and the exit status that it says (0 where it says none)."""
    text = "\n".join(re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))
    return [(shlex.split(command)[1:], int(code or 0)) for command, code in COMMAND.findall(text)]


def run(home: Path, args: list[str], code: int) -> Result:
    """Run one; it must end as the page says."""
    done = gpumod(home, *args)
    assert done.exit_code == code, f"{args}\n{done.stdout}\n{done.stderr}"
    return done
