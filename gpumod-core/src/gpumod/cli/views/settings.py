"""Settings."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.parts import blocks, bullets, pairs, table, words
from gpumod.operations.results import SettingRow, SettingsResult


def settings(result: SettingsResult) -> RenderableType:
    """Every setting."""
    rows = [(s.key, _value(s.value), s.source, s.description) for s in result.settings]
    notes = [words(s.note, "yellow") for s in result.settings if s.note]
    shown = table(("SETTING", "VALUE", "FROM", "WHAT"), rows, fold=("VALUE", "WHAT"))
    return blocks(shown, bullets(notes) if notes else None)


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
