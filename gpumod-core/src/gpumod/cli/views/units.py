"""Units, templates and secrets."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.text import safe_lines
from gpumod.cli.views.parts import blocks, bullets, commas, stack, table, words
from gpumod.operations.unit_results import SecretsResult, TemplateListResult, TemplateResult, UnitResult


def unit(result: UnitResult) -> RenderableType:
    """The unit as it would be written, then its difference to what is there. Comments tell what is what."""
    head = [f"# {result.path}", f"# of {result.supervisor}, made of {result.template}", *_state(result)]
    lines = [*head, "", *result.text.splitlines()]
    if result.difference and not result.written:
        lines += ["", *result.difference.splitlines()]
    return Text("\n".join(safe_lines("\n".join(lines))), overflow="ignore", no_wrap=True)


def _state(result: UnitResult) -> list[str]:
    if result.written:
        return ["# it was written just now"]
    if not result.there:
        return ["# not there yet"]
    if not result.difference:
        return ["# as it is there"]
    by_hand = ["# what is there was edited by hand"] if result.edited else []
    return ["# what is there differs (below); the next start of the service writes it", *by_hand]


def template_list(result: TemplateListResult) -> RenderableType:
    """Every template."""
    rows = [(row.name, row.source, commas(row.hides), row.path) for row in result.templates]
    return blocks(
        table(("TEMPLATE", "FROM", "HIDES THAT OF", "PATH"), rows, fold=("PATH",)),
        words(f"yours go into {result.folder}: gpumod template edit NAME"),
    )


def template(result: TemplateResult) -> RenderableType:
    """Its text as it is; the first lines say whose it is."""
    if result.changed:
        whose = f"is now that of {result.source}: {result.path}" if result.source else "is gone"
        used = [f"{s}: gpumod service unit {s}" for s in result.services]
        return stack(words(f"{result.name} {whose}"), bullets(used) if used else None)
    if result.changed is False:
        return words(f"nothing was changed: {result.name} of {result.source} says the same ({result.path})")
    head = [f"{{# {result.name}, {result.source}: {result.path} #}}"]
    return Text("\n".join(safe_lines("\n".join([*head, *result.text.splitlines()]))), overflow="ignore", no_wrap=True)


def secrets(result: SecretsResult) -> RenderableType:
    """Names alone."""
    names = words(f"{result.service}: {commas(result.names)}" if result.names else f"{result.service} has no secrets")
    return stack(names, words(f"to apply it: {result.apply}", "yellow") if result.apply else None)
