"""`gpumod init` on a terminal: what it asks, and that whatever is answered, nothing is half done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.machine.strangers import started
from tests.machine.terminals import CTRL_C, CTRL_D, Terminal

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim

NAMES = ("alpha", "beta", "gamma")
SHARE_MB = 3070
INTERRUPTED = 130


@pytest.fixture
def theirs(machine: Machine, until: Callable[..., Any]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Three vLLMs that somebody started by hand, by the ids that are proposed for them."""
    vllm = str(Path(machine.sim.folder) / "bin" / "vllm")
    with ExitStack() as stack:
        found = {}
        for name in NAMES:
            port = machine.unused.pop()
            argv = (vllm, "serve", f"acme/{name}", "--port", str(port), "--gpu-memory-utilization", "0.125")
            ready = f"http://127.0.0.1:{port}/health"
            found[name] = stack.enter_context(started(*argv, ready=ready, until=until))
        began = {name: psutil.Process(process.pid).create_time() for name, process in found.items()}
        yield found
        assert {name: psutil.Process(process.pid).create_time() for name, process in found.items()} == began


def init(machine: Machine) -> Terminal:
    terminal = Terminal([word for word in machine.argv("init") if word != "--json"], COLUMNS="200")
    machine.started.append(terminal.process)
    return terminal


def adopted(machine: Machine) -> set[str]:
    return {row["id"] for row in machine.ok("service", "list").json["services"] if row["adopted"]}


def asked(terminal: Terminal) -> str:
    """The id of the proposal that is asked about next."""
    terminal.wait_for("Manage process ")
    return terminal.wait_for("? [y/N]: ").rpartition(" as ")[2]


def answered(machine: Machine, answers: dict[str, str]) -> tuple[int, str]:
    """Answer for each proposal, by its id; the exit status, and all that was said."""
    terminal = init(machine)
    terminal.wait_for("load the presets? [Y/n]: ")
    terminal.type("y\n")
    for _ in NAMES:
        terminal.type(answers[asked(terminal)])
    return terminal.end(), terminal.told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ({"alpha": "n\n", "beta": "y\n", "gamma": "\n"}, {"beta"}),
        ({"alpha": "y\n", "beta": "yes\n", "gamma": "Y\n"}, {*NAMES}),
        ({"alpha": "n\n", "beta": "no\n", "gamma": "\n"}, set()),
    ],
    ids=["some", "yes", "no"],
)
def test_what_is_answered_with_yes_is_managed(
    machine: Machine, theirs: dict[str, Any], answers: dict[str, str], taken: set[str]
) -> None:
    code, told = answered(machine, answers)
    assert code == 0, told
    assert adopted(machine) == taken
    states = {row["id"]: (row["state"], row["pid"]) for row in machine.status()["services"]}
    assert {name: states[name] for name in taken} == {name: ("running", theirs[name].pid) for name in taken}
    left = {process["pid"] for process in machine.status()["foreign"]}
    assert left == {process.pid for name, process in theirs.items() if name not in taken}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "at"),
    [(CTRL_C, 2), (CTRL_C, 0), (CTRL_D, 0), (CTRL_D, 2)],
    ids=["ctrl-c-2", "ctrl-c-0", "end-0", "end-2"],
)
def test_nothing_is_managed_when_the_questions_are_ended(
    machine: Machine, theirs: dict[str, Any], key: str, at: int
) -> None:
    before = machine.sql("SELECT id, definition FROM services")
    terminal = init(machine)
    terminal.wait_for("load the presets? [Y/n]: ")
    terminal.type("\n")
    for number in range(at + 1):
        asked(terminal)
        terminal.type(key if number == at else "y\n")
    assert terminal.end() == INTERRUPTED, terminal.told
    assert "Traceback" not in terminal.told
    assert "interrupted" in terminal.told
    assert machine.sql("SELECT id, definition FROM services") == before
    assert machine.sql("SELECT service FROM handles") == []
    assert machine.status()["open_run"] is None


@pytest.mark.parametrize("key", ["n\n", CTRL_C, CTRL_D], ids=["no", "ctrl-c", "end"])
def test_without_a_yes_no_home_is_made(tmp_path: Path, key: str) -> None:
    home = tmp_path / "home"
    words = ("--home", str(home), "init", "--sim", "RTX 4090:24564", "--sim-dir", str(tmp_path / "sim"))
    terminal = Terminal([sys.executable, "-m", "gpumod", *words])
    terminal.wait_for("? [Y/n]: ")
    terminal.type(key)
    assert terminal.end() == INTERRUPTED, terminal.told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_has_ended_meanwhile_is_not_mistaken_for_another(machine: Machine, until: Callable[..., Any]) -> None:
    """Ids of proposals are counted: of two, the second is `alpha-2`, and is `alpha` once the first has gone."""
    vllm = str(Path(machine.sim.folder) / "bin" / "vllm")
    with ExitStack() as stack:
        both = []
        for _ in range(2):
            port = machine.unused.pop()
            argv = (vllm, "serve", "acme/alpha", "--port", str(port), "--gpu-memory-utilization", "0.125")
            both.append(stack.enter_context(started(*argv, ready=f"http://127.0.0.1:{port}/health", until=until)))
        terminal = init(machine)
        terminal.wait_for("load the presets? [Y/n]: ")
        terminal.type("\n")
        assert asked(terminal) == "alpha"
        terminal.type("y\n")
        assert asked(terminal) == "alpha-2"
        first, second = sorted(both, key=lambda process: process.pid)
        first.kill()
        first.wait()
        until(lambda: len(machine.allocations()) == 1, "its memory to be forgotten")
        terminal.type("n\n")
        assert terminal.end() == 4, terminal.told
        assert f"process {first.pid}" in terminal.told
        assert adopted(machine) == set()
        assert second.poll() is None
