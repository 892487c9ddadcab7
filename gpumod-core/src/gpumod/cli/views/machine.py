"""The machine made ready, checked, and its plugins."""

from __future__ import annotations

from collections import Counter

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.views.adoption import found
from gpumod.cli.views.parts import blocks, bullets, commas, heading, line, pairs, problems, stack, state, table, words
from gpumod.operations.results import DoctorResult, InitResult, PluginRow, PluginsResult


def init(result: InitResult) -> RenderableType:
    """What was made, and what to do next."""
    facts = {
        "home": words(result.home, "bold"),
        "GPUs": "; ".join(result.gpus),
        "created": commas(result.created),
        "settings": commas(f"{key}={value}" for key, value in result.settings.items()),
        "services": commas(result.services),
        "modes": commas(result.modes),
    }
    return blocks(
        pairs(facts),
        *found(result),
        *problems(result.problems),
        stack(heading("Next"), bullets(result.next)) if result.next else None,
    )


def doctor(result: DoctorResult) -> RenderableType:
    """Every check, what to do about what is wrong, and how much could not be looked at."""
    rows = [(state(c.level), c.name, c.message + (f" (try: {c.hint})" if c.hint else "")) for c in result.checks]
    count = Counter(check.level for check in result.checks)
    well = f"nothing is wrong; {count['unknown']} could not be told from here" if count["unknown"] else "all is well"
    problems, warnings = _counted(count["problem"], "problem"), _counted(count["warning"], "warning")
    if result.ok:
        verdict = words(well, "green")
    elif problems:
        verdict = words(f"something is wrong: {commas(told for told in (problems, warnings) if told)}", "red")
    else:
        verdict = words(f"nothing is broken now: {warnings}", "yellow")
    return blocks(table(("LEVEL", "CHECK", "WHAT"), rows, fold=("WHAT",)), verdict)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}" if count else ""


def plugins(result: PluginsResult) -> RenderableType:
    """Plugins and what they offer; why one, or an offer of one, is not used."""
    rows = [
        (p.name, f"{p.distribution} {p.version}".strip(), commas(p.offers), _plugin_state(p)) for p in result.plugins
    ]
    wrong = [error for p in result.plugins for error in ((p.error,) if p.error else p.problems)]
    commands = [line(words(f"gpumod {name}", "bold"), f"  from {origin}") for name, origin in result.commands.items()]
    return blocks(
        words(f"plugin API {result.plugin_api}"),
        table(("PLUGIN", "DISTRIBUTION", "OFFERS", "STATE"), rows, fold=("OFFERS",)) if rows else words("no plugins"),
        stack(heading("Commands"), *commands) if commands else None,
        *problems(error for n, error in enumerate(wrong) if error not in wrong[:n]),  # of a clash each side has one
    )


def _plugin_state(plugin: PluginRow) -> Text:
    if plugin.error:
        return words("broken", "red")
    if plugin.problems:
        return words("see below", "yellow")
    return words(f"off: {plugin.disabled}" if plugin.disabled else "ok")
