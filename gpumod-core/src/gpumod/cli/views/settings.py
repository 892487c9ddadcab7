"""Settings."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.parts import pairs, table, words
from gpumod.operations.results import SettingRow, SettingsResult


def settings(result: SettingsResult) -> RenderableType:
    """Every setting."""
    rows = [(s.key, _value(s.value), s.source, s.description) for s in result.settings]
    return table(("SETTING", "VALUE", "FROM", "WHAT"), rows, fold=("VALUE", "WHAT"))


def setting(result: SettingRow) -> RenderableType:
    """One setting."""
    return pairs(
        {
            "setting": words(result.key, "bold"),
            "value": _value(result.value),
            "from": result.source,
            "default": _value(result.default),
            "what": result.description,
            "note": result.note,
        }
    )


def _value(value: str | None) -> str:
    return "(none)" if value is None else value
