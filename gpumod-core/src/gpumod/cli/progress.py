"""The progress of a change on stderr: a live table on a terminal, else a line per piece of news."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from gpumod.cli.views import stderr_console
from gpumod.cli.views.parts import expected, line, seconds, stack, state, table, words
from gpumod.domain.plan import Step
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import StepStatus


class Monotonic(Protocol):
    """Seconds that only grow."""

    def __call__(self) -> float: ...


@dataclass
class Row:
    """One step as it stands. `since` is when it began, `took` how long it lasted in the end."""

    step: Step
    status: StepStatus = StepStatus.PENDING
    since: float | None = None
    took: float | None = None
    text: str = ""


class ProgressView(AbstractContextManager["ProgressView"]):
    """Takes :class:`Progress` and draws it; a context manager that leaves the terminal as it was."""

    def __init__(self, console: Console, now: Monotonic = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._rows: dict[int, Row] = {}
        self._back = ""
        self._notes: tuple[str, ...] = ()
        self._live: Live | None = None
        self._said: str | None = None

    @classmethod
    def on_stderr(cls) -> ProgressView:
        return cls(stderr_console())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, news: Progress) -> None:
        """Take one piece of news."""
        if news.kind in (ProgressKind.PLANNED, ProgressKind.ROLLBACK):
            self._begin(news)
        if news.step is not None:
            self._update(news, news.step)
        if self._console.is_terminal:
            self._draw()
        else:
            self._print(news)

    def _begin(self, news: Progress) -> None:
        """A plan begins: the run's own, or the way back, whose steps replace those of the way there."""
        if news.kind is ProgressKind.ROLLBACK:
            self._back, self._notes = news.text or "it failed", ()
        if news.plan is not None:
            self._rows = {step.n: Row(step) for step in news.plan.steps}
            self._notes = news.plan.notes

    def _update(self, news: Progress, step: Step) -> None:
        row = self._rows.setdefault(step.n, Row(step))
        row.status = news.step_status or row.status
        row.text = news.text
        if row.status is StepStatus.RUNNING:
            row.since = self._now() - (news.seconds or 0.0) if row.since is None else row.since
        elif row.status is not StepStatus.PENDING:
            row.took = news.seconds

    def _draw(self) -> None:
        if self._live is None:
            if not self._rows:
                return
            self._live = Live(
                get_renderable=self.table, console=self._console, refresh_per_second=8, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()
        self._live.refresh()

    def table(self) -> RenderableType:
        """Every step: state, elapsed, expected from earlier runs, what is waited for."""
        rows = [
            (
                r.step.n,
                r.step.action,
                r.step.service,
                state(r.status),
                self._elapsed(r),
                expected(r.step.expected_s, measured=r.step.expected_measured),
                r.text or " ",
            )
            for r in sorted(self._rows.values(), key=lambda row: row.step.n)
        ]
        return stack(
            words(f"going back: {self._back}", "yellow") if self._back else None,
            *(words(note, "yellow") for note in self._notes),
            table(
                ("N", "STEP", "SERVICE", "STATUS", "TAKES", "EXPECTED", "WAITS FOR"),
                rows,
                right=("N",),
                fold=("WAITS FOR",),
            ),
        )

    def _elapsed(self, row: Row) -> str:
        if row.took is not None:
            return seconds(row.took)
        return seconds(self._now() - row.since) if row.since is not None else ""

    def _print(self, news: Progress) -> None:
        text = self._sentence(news)
        if text is not None and text.plain != self._said:
            self._said = text.plain
            self._console.print(text, soft_wrap=True)
        for note in news.plan.notes if news.plan is not None else ():
            self._console.print(words(note), soft_wrap=True)

    def _sentence(self, news: Progress) -> Text | None:
        """One plain line of news, or None where there is nothing new to say: how it ended, its result says."""
        if news.kind is ProgressKind.PLANNED and news.plan is not None:
            steps = len(news.plan.steps)
            time_s = f", about {seconds(news.plan.expected_s)}" if news.plan.expected_s else ""
            return line(f"{steps} step{'' if steps == 1 else 's'}{time_s}")
        if news.kind is ProgressKind.ROLLBACK:
            return line(f"going back: {self._back}")
        if news.step is None:
            return line(news.text) if news.text and news.kind is not ProgressKind.ENDED else None
        status = news.step_status or StepStatus.RUNNING
        took = (
            f" after {seconds(news.seconds)}" if news.seconds is not None and status is not StepStatus.RUNNING else ""
        )
        wait = _wait(news.step) if news.kind is ProgressKind.STEP and not took else ""
        text = f": {news.text}" if news.text else ""
        return line(f"{news.step.n} {news.step.action} {news.step.service}: {status}{took}{wait}{text}")


def _wait(step: Step) -> str:
    if not step.expected_s:
        return ""
    return f" ({'about' if step.expected_measured else 'not measured yet, perhaps'} {seconds(step.expected_s)})"
