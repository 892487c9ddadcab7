"""What goes into the operations about plugins, and what comes out of them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from gpumod.domain.base import Frozen, Id

LONGEST_NAME = 40


def _plain_name(text: str) -> str:
    if len(text) > LONGEST_NAME:
        raise ValueError(f"must have at most {LONGEST_NAME} characters")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", text):
        raise ValueError("must be of small letters and digits, single dashes between them, and begin with a letter")
    if text.startswith("gpumod"):
        raise ValueError("names the driver: the distribution becomes gpumod-NAME by itself")
    return text


class PluginNew(Frozen):
    """`name` is the driver's; the distribution becomes `gpumod-NAME`, in `folder`."""

    name: Annotated[str, AfterValidator(_plain_name)]
    folder: str = "."


class PluginNewResult(Frozen):
    """The folder that was written, its files, and what to type next."""

    folder: str
    files: tuple[str, ...]
    next: tuple[str, ...]


class PluginCheck(Frozen):
    """`name` is a driver's, a sleep level's, an estimator's, a source's or a supervisor's; `presets` are files with
    services that show what it is for."""

    name: Id
    presets: tuple[str, ...] = ()


class SuiteTest(Frozen):
    test: str
    outcome: Literal["passed", "failed", "skipped"]
    why: str = ""


class SuiteRow(Frozen):
    """One suite over one thing: `kind` as in `gpumod plugins`, `examples` the ids of the services that it was given;
    `untested` is why it was not run."""

    kind: str
    name: str
    distribution: str
    examples: tuple[str, ...] = ()
    tests: tuple[SuiteTest, ...] = ()
    untested: str = ""

    @property
    def failed(self) -> tuple[SuiteTest, ...]:
        return tuple(test for test in self.tests if test.outcome == "failed")

    def count(self, outcome: str) -> int:
        return sum(test.outcome == outcome for test in self.tests)


class PluginCheckResult(Frozen):
    """`ok`: every test of every suite passed."""

    ok: bool
    suites: tuple[SuiteRow, ...]
