"""Progress on stderr: lines where nobody looks at a terminal, else a live table; and logs that are followed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from gpumod.cli.follow import follow_logs, following
from gpumod.cli.progress import ProgressView
from gpumod.domain.errors import Failed
from gpumod.domain.plan import Plan, Step, Target, VerdictKind
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import StepStatus
from gpumod.domain.states import Action
from gpumod.operations.results import LogsResult

STOP = Step(n=1, action=Action.STOP, service="chat", why="not wanted", expected_s=2.0, expected_measured=True)
START = Step(n=2, action=Action.START, service="[red]\x1b[1mglm", why="wanted", waits_for=(1,), expected_s=42.0)
BACK = Step(n=1, action=Action.START, service="chat", why="what was there")
PLAN = Plan(
    id="p", target=Target(), verdict=VerdictKind.FITS, steps=(STOP, START), expected_s=44.0, notes=("leased to bob",)
)
WAY_BACK = Plan(id="q", target=Target(), verdict=VerdictKind.FITS, steps=(BACK,))


def step(of: Step, status: StepStatus, seconds: float | None = None, text: str = "") -> Progress:
    return Progress(kind=ProgressKind.STEP, run_id="r", step=of, step_status=status, seconds=seconds, text=text)


def waiting(of: Step, text: str) -> Progress:
    kind = ProgressKind.WAITING
    return Progress(kind=kind, run_id="r", step=of, step_status=StepStatus.RUNNING, text=text)


NEWS = (
    Progress(kind=ProgressKind.PLANNED, run_id="r", plan=PLAN),
    step(STOP, StepStatus.RUNNING),
    step(STOP, StepStatus.DONE, 1.5),
    step(START, StepStatus.RUNNING),
    waiting(START, "an answer on port 8081"),
    waiting(START, "an answer on port 8081"),
    step(START, StepStatus.FAILED, 600.0, "exit code 1"),
    Progress(kind=ProgressKind.ROLLBACK, run_id="r", text="glm did not start"),
    Progress(kind=ProgressKind.ROLLBACK, run_id="r", plan=WAY_BACK, text="glm did not start"),
    step(BACK, StepStatus.DONE, 8.0),
    Progress(kind=ProgressKind.ENDED, run_id="r", text="rolled back"),
)


def output(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_piece_of_news_is_a_line() -> None:
    console = Console(file=StringIO(), width=40, markup=False)
    with ProgressView(console) as view:
        for news in NEWS:
            view(news)
    assert output(console).splitlines() == [
        "2 steps, about 44 s",
        "leased to bob",
        "1 stop chat: running (about 2.0 s)",
        "1 stop chat: done after 1.5 s",
        "2 start [red]glm: running (not measured yet, perhaps 42 s)",
        "2 start [red]glm: running: an answer on port 8081",
        "2 start [red]glm: failed after 10 min: exit code 1",
        "going back: glm did not start",
        "1 start chat: done after 8.0 s",
    ], "how it ended is told once, by the result"


def test_on_a_terminal_the_table_counts_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    now = 100.0
    console = Console(file=StringIO(), width=80, force_terminal=True, markup=False)
    with ProgressView(console, now=lambda: now) as view:
        for news in NEWS[:5]:
            view(news)
        now = 112.0
        table = Console(file=StringIO(), width=80, markup=False)
        table.print(view.table())
    lines = [line.split() for line in output(table).splitlines()]
    assert lines.pop(0) == ["leased", "to", "bob"]
    assert lines[1][:7] == ["1", "stop", "chat", "done", "1.5", "s", "2.0"]
    assert " ".join(lines[2]) == "2 start [red]glm running 12 s ~42 s an answer on port 8081"
    shown = output(console)
    assert "\x1b[1mglm" not in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_the_way_back_replaces_the_way_there() -> None:
    view = ProgressView(Console(file=StringIO(), width=80))
    for news in NEWS:
        view(news)
    table = Console(file=StringIO(), width=80)
    table.print(view.table())
    assert "going back: glm did not start" in output(table)
    assert "glm:" not in output(table).split("going back")[1]


def test_nothing_is_drawn_before_there_is_news() -> None:
    console = Console(file=StringIO(), force_terminal=True)
    with ProgressView(console):
        pass
    assert output(console) == ""


def test_following_survives_rotation_and_cutting(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\ntwo\nthree\n")
    lines = following(log, 2)
    assert [next(lines), next(lines)] == ["two", "three"]
    with log.open("a") as stream:
        stream.write("four\nfi")
    assert next(lines) == "four"
    with log.open("a") as stream:
        stream.write("ve\n")
    assert next(lines) == "five"
    log.rename(tmp_path / "x.log.1")
    log.write_text("new file\n")
    assert next(lines) == "new file"
    log.write_text("cut\n")
    assert next(lines) == "cut"
    lines.close()


def test_a_log_that_is_not_there_cannot_be_followed(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "none.log")):
        with pytest.raises(Failed) as caught:
            follow_logs(LogsResult(service="x", lines=(), path=path), 5)
        assert caught.value.code == "no-log-file"
