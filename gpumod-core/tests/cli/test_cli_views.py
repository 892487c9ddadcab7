"""Every human view: compared with a text file, and shown hostile texts.

GPUMOD_UPDATE_SNAPSHOTS=1 writes the files anew.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from gpumod.cli.text import safe
from gpumod.cli.views import VIEWS, print_on, render
from gpumod.domain.base import Frozen
from gpumod.operations.catalogue import OPERATIONS

SNAPSHOTS = Path(__file__).with_name("snapshots")
HOSTILE = "[red]x[/red]\x1b[31m\x1b]0;title\x07\n\r\x9b2J\u202ey"
VISUAL = ("status", "simulate-fits", "simulate-misfit", "simulate-shared")


def printed(result: Frozen, width: int = 80, **options: Any) -> str:
    console = Console(file=StringIO(), width=width, markup=False, emoji=False, highlight=False, color_system=None)
    print_on(console, render(result, **options))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def compare(name: str, text: str) -> None:
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("GPUMOD_UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_utc")
def test_view_looks_as_it_did(name: str, sample: Frozen) -> None:
    compare(name, printed(sample))


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize("width", [80, 40])
def test_charts_look_as_they_did(name: str, sample: Frozen, width: int) -> None:
    if name in VISUAL:
        compare(f"{name}-visual-{width}", printed(sample, width, visual=True))


def test_view_stays_inside_narrow_terminals(name: str, sample: Frozen) -> None:
    as_it_is = ("logs", "preset", "export", "template")  # shown line by line as they are, whatever the width
    if name not in as_it_is and not name.startswith("unit"):
        assert max(len(line) for line in printed(sample, 40).splitlines()) <= 40


def poisoned(value: Any) -> Any:
    """`value` with a hostile text before every text in it. Enums stay: the domain checks those."""
    if isinstance(value, BaseModel):
        fields = {key: poisoned(getattr(value, key)) for key in type(value).model_fields}
        return value.model_copy(update=fields)
    if type(value) is str and value != "any":
        return HOSTILE + value
    if isinstance(value, dict):
        return {poisoned(key): poisoned(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(item) for item in value)
    return value


@pytest.mark.parametrize("width", [40, 80, 4000])
def test_hostile_texts_are_shown_not_interpreted(name: str, sample: Frozen, width: int) -> None:
    for options in ({}, {"visual": True}) if name in VISUAL else ({},):
        text = printed(poisoned(sample), width, **options)
        assert "".join(safe(line) for line in text.splitlines()) == text.replace("\n", "")
        assert width < 4000 or poisoned(sample) == sample or "[red]x[/red]" in text


def test_every_result_has_a_view() -> None:
    assert {operation.result.__name__ for operation in OPERATIONS} == set(VIEWS)


def test_every_view_has_a_sample(request: pytest.FixtureRequest) -> None:
    shown = {
        type(item.callspec.params["sample"]).__name__
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "sample" in item.callspec.params
    }
    assert shown >= set(VIEWS)
