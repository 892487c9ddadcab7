"""What `gpumod watch` saw and did."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from gpumod.cli.text import safe
from gpumod.cli.views.parts import pairs
from gpumod.domain.health import Transition
from gpumod.operations.watch_results import Mended, WatchResult, WatchUnitState

DONE = {"boot": "switched to", "restart": "restarted", "recover": "closed the run of", "sleep": "put to sleep"}
FAILED = {
    "boot": "could not switch to",
    "restart": "could not restart",
    "recover": "could not close the run of",
    "sleep": "could not put to sleep",
}


def looked(result: WatchResult) -> RenderableType:
    """One look: what was done and why, what is left alone, and whether the mode is whole."""
    if result.unit is not None:
        return _unit(result.unit)
    lines = [_changed(news) for news in result.transitions]
    lines += [line for done in result.mended for line in _mended(done)]
    lines += [Text(safe(note)) for note in result.notes]
    whole = "whole" if result.whole else "not whole"
    if result.whole is None:
        return Group(*lines)
    wrong = ", ".join(f"{m.service} is {m.state} (wanted {m.wanted})" for m in result.wrong)
    if wrong:
        whole = f"{whole}: {safe(wrong)}"
    lines.append(Text(f"mode {safe(result.mode)} is {whole}" if result.mode else "no mode is current"))
    return Group(*lines)


def _changed(news: Transition) -> Text:
    why = f": {safe(news.why)}" if news.why else ""
    return Text(f"{safe(news.service)} is {news.now} (was {news.before}){why}")


def _mended(done: Mended) -> list[Text]:
    said = (FAILED if done.error else DONE).get(done.what, safe(done.what))
    lines = [Text(f"{said} {safe(done.subject)}: {safe(done.why)}")]
    if done.error is not None:
        lines += [Text(f"  {word}: {safe(text)}") for word, text in _parts(done) if text]
    return lines


def _parts(done: Mended) -> list[tuple[str, str]]:
    error = done.error
    return [("but", error.message), ("why", error.why), ("try", error.hint)] if error else []


def _unit(unit: WatchUnitState) -> RenderableType:
    """Where the unit is, and what would keep it from doing its work."""
    gone = "is not there any more" if unit.changed else "was not there: there was none to remove"
    state = "runs, from every boot on" if unit.installed else gone
    known = pairs({"unit": f"{unit.name} {state}", "manager": f"the {unit.manager}'s", "file": unit.path})
    return Group(known, *(Text(safe(note)) for note in unit.notes))
