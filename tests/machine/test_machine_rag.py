"""The RAG example on the simulated machine: clients at once, every answer whole, and memory within each plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine.conftest import Window

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Watch

pytestmark = pytest.mark.sim

PATIENCE_S = 240.0
RAG = Path(__file__).parents[2] / "examples" / "rag" / "rag.py"


def note_plans(machine: Machine, watch: Watch) -> None:
    """Every run, and what its plan said that each GPU would hold at most."""
    for command, began, ended, definition in machine.sql(
        "SELECT command, started_at, ended_at, definition FROM runs WHERE status = 'done'"
    ):
        peaks = {str(gpu["index"]): gpu["peak_mb"] for gpu in json.loads(definition)["plan"]["gpus"]}
        watch.windows.append(Window(began, ended, peaks, command))


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("clients", [2, 8])
def test_clients_at_once_have_whole_answers_within_the_plan(machine: Machine, clients: int) -> None:
    machine.change("switch", "rag")
    asleep = machine.held()
    watch = machine.watch()
    argv = [sys.executable, str(RAG), "--home", str(machine.home), *(f"question {n}?" for n in range(clients))]
    process = machine.begin(argv=argv)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, machine.said(0).read_text()
    answers: list[Any] = [json.loads(line) for line in stdout.splitlines()]
    assert [answer["question"] for answer in answers] == [f"question {n}?" for n in range(clients)]
    assert all(len(answer["draft"].split()) == len(answer["answer"].split()) == 64 for answer in answers)
    assert all(answer["passage"] and len(answer["waited_s"]) == 3 for answer in answers)
    note_plans(machine, watch)
    assert {window.command.split(":")[0] for window in watch.windows} >= {"turn hyde", "turn reranker", "turn chat"}
    watch.check()
    assert machine.held() == asleep
    assert machine.sql("SELECT 1 FROM turns") == []
    machine.whole("rag")
