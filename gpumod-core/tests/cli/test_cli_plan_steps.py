"""The table of a plan's steps: what is held while steps overlap."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from gpumod.cli.views import print_on
from gpumod.cli.views.plan import plan as view
from gpumod.domain.plan import Plan
from gpumod.domain.states import State
from gpumod.testing.examples import machine, plan, reading, want

CAPTION = "PEAK, AFTER: MiB held while and after a step, with those that run beside it"


def lines(shown: Plan) -> list[str]:
    console = Console(file=StringIO(), width=100, color_system=None)
    print_on(console, view(shown))
    assert isinstance(console.file, StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_step_shows_what_begins_beside_it() -> None:
    """A stop of 3 s and a start of 30 s for which there is room already: 7000 MiB and 4000 MiB at once."""
    shown = lines(plan(machine(reading("chat", State.RUNNING, 7000)), want("embedding")))
    assert "1 stop chat 11000 4000 ~3.0 s not in mode m" in shown
    assert "2 start embedding 11000 4000 ~30 s wanted by mode m" in shown
    assert CAPTION in shown


def test_steps_one_after_the_other_need_no_words() -> None:
    shown = lines(plan(machine(reading("glm-code", State.RUNNING, 19100)), want("chat")))
    assert "1 stop glm-code 19100 0 ~3.0 s not in mode m" in shown
    assert "2 start chat 1 7000 7000 ~30 s wanted by mode m" in shown
    assert CAPTION not in shown


def test_a_short_step_beside_a_long_one_ends_below_its_peak() -> None:
    """Steps end and begin in any order: none is shown to leave more than was held while it ran."""
    target = want("embedding", "hyde", "reranker")
    for row in lines(plan(machine(reading("chat", State.RUNNING, 7000), reading("asr", State.RUNNING, 100)), target)):
        words = row.split()
        if len(words) > 4 and words[0].isdigit() and words[1] in ("start", "stop"):
            peak, after = (int(word) for word in row.partition("~")[0].split()[-2:])
            assert peak >= after, row
