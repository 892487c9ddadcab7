"""The machine made ready, checked, and its plugins."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.adoption import found
from gpumod.cli.views.parts import blocks, bullets, commas, heading, line, pairs, problems, stack, state, table, words
from gpumod.operations.results import DoctorResult, InitResult, PluginsResult


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
    unseen = sum(check.level == "unknown" for check in result.checks)
    well = f"nothing is wrong; {unseen} could not be told from here" if unseen else "all is well"
    verdict = words(well, "green") if result.ok else words("something is wrong", "red")
    return blocks(table(("LEVEL", "CHECK", "WHAT"), rows, fold=("WHAT",)), verdict)


def plugins(result: PluginsResult) -> RenderableType:
    """Plugins and what they offer; broken ones with the reason."""
    rows = [
        (p.name, f"{p.distribution} {p.version}".strip(), commas(p.offers), words("broken", "red") if p.error else "ok")
        for p in result.plugins
    ]
    commands = [line(words(f"gpumod {name}", "bold"), f"  from {origin}") for name, origin in result.commands.items()]
    return blocks(
        words(f"plugin API {result.plugin_api}"),
        table(("PLUGIN", "DISTRIBUTION", "OFFERS", "STATE"), rows, fold=("OFFERS",)) if rows else words("no plugins"),
        stack(heading("Commands"), *commands) if commands else None,
        *problems(p.error for p in result.plugins if p.error),
    )
