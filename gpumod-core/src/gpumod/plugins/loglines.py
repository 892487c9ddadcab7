"""Rules by which drivers recognise the fatal lines of their runtime's log, with the memory numbers in them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpumod.domain.plan import Variant
from gpumod.ports import FatalLine

UNITS_MB = {"B": 1 / 1024**2, "KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0, "TiB": 1024.0**2}


@dataclass(frozen=True)
class LogRule:
    """A line that `pattern` finds means `code`.

    The groups `need` and `have` of the pattern are memory, in the unit that the groups `need_unit` and `have_unit`
    name, else in `unit`. `hint` may use the pattern's groups as `{group}`. `remedy` makes of the groups another way to
    run the service that the line proposes.
    """

    code: Literal["out-of-memory", "port-taken", "bad-model", "bad-option", "crashed"]
    pattern: re.Pattern[str]
    hint: str = ""
    unit: str = "MiB"
    remedy: Callable[[Mapping[str, str]], Variant] | None = None

    def read(self, line: str) -> FatalLine | None:
        match = self.pattern.search(line)
        if match is None:
            return None
        groups = {name: text or "" for name, text in match.groupdict().items()}
        return FatalLine(
            code=self.code,
            line=line,
            need_mb=self._mb(groups, "need"),
            have_mb=self._mb(groups, "have"),
            hint=self.hint.format(**groups),
            remedy=self.remedy(groups) if self.remedy else None,
        )

    def _mb(self, groups: dict[str, str], name: str) -> int | None:
        try:
            return math.ceil(float(groups[name]) * UNITS_MB[groups.get(f"{name}_unit") or self.unit])
        except (KeyError, ValueError):
            return None


def first_fatal(rules: Sequence[LogRule], lines: Sequence[str]) -> FatalLine | None:
    """The first line that a rule finds (rules are tried in order); `crashed` only when nothing says more."""
    crashed: FatalLine | None = None
    for line in lines:
        found = next((fatal for rule in rules if (fatal := rule.read(line))), None)
        if found is not None and found.code != "crashed":
            return found
        crashed = crashed or found
    return crashed
