"""One document of everything: written, compared, applied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.text import safe_lines
from gpumod.cli.views.change import change
from gpumod.cli.views.parts import blocks, bullets, commas, line, stack, table, words
from gpumod.domain.mode import Want
from gpumod.operations.box_results import ApplyResult, DiffResult, DriftRow, ExportResult, ObjectChange

SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def exported(result: ExportResult) -> RenderableType:
    """The YAML as it is."""
    return Text("\n".join(safe_lines(result.yaml)), overflow="ignore", no_wrap=True)


def difference(result: DiffResult) -> RenderableType:
    """What applying it would change."""
    return blocks(_changes(result, f"{result.source} would change nothing"), _beside(result))


def applied(result: ApplyResult) -> RenderableType:
    """What applying it changed, or would."""
    if result.dry_run:
        last = words("a dry run: nothing was changed", "dim")
    elif result.applied:
        count = f"{len(result.changes)} object{'' if len(result.changes) == 1 else 's'}"
        brought = bool(result.change and result.change.steps)
        same = f"nothing to do: all is as {result.source} says"
        if brought:
            same = f"no definition changed: all was as {result.source} says, and what runs was brought to it"
        last = words(f"applied: {count} changed" if result.changes else same, "green")
    else:
        last = words("not applied: the definitions are as they were", "red")
    return blocks(_changes(result, ""), last, change(result.change) if result.change else None, _beside(result))


def _changes(result: DiffResult, nothing: str) -> RenderableType | None:
    if not result.changes:
        return words(nothing) if nothing else None
    return table(("", "WHAT", "FIELD", "NOW", "THEN"), _rows(result.changes), fold=("FIELD", "NOW", "THEN"))


def _rows(changes: tuple[ObjectChange, ...]) -> Iterator[tuple[object, ...]]:
    for item in changes:
        sign, style = SIGNS.get(item.action, (item.action, ""))
        head = (words(sign, style), f"{item.kind} {item.id}")
        if item.action != "change":
            yield (*head, commas(f.field for f in item.fields), "", "")
            continue
        for n, field in enumerate(item.fields):
            yield (*(head if n == 0 else ("", "")), field.field, _value(field.old), _value(field.new))


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, list) and value and all(isinstance(item, dict) and "service" in item for item in value):
        return ", ".join(map(_member, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _member(item: Mapping[str, Any]) -> str:
    """A member of a mode: awake and in no order where it does not say."""
    want, order = item.get("want", Want.AWAKE.value), item.get("start_order", 0)
    said = [*([want] if want != Want.AWAKE.value else []), *([f"start order {order}"] if order else [])]
    return f"{item['service']} ({', '.join(map(str, said))})" if said else str(item["service"])


def _beside(result: DiffResult) -> RenderableType | None:
    notes: list[Text] = [words(note) for note in result.notes]
    if result.unnamed:
        notes.append(words(f"not in {result.source}, so left alone (--prune removes it): {commas(result.unnamed)}"))
    notes += [_drift(row) for row in result.drift]
    if len(result.drift) > 1:
        notes.append(words(f"all at once: gpumod apply -f {result.source} --now"))
    return stack(bullets(notes)) if notes else None


def _drift(row: DriftRow) -> Text:
    fields = commas(row.fields)
    if row.altered:
        how = f"{row.service} runs as {row.altered} changed it, with another {fields}"
        return line(words(how, "yellow"), f" ({row.command} undoes that)")
    return line(words(f"{row.service} runs with another {fields}", "yellow"), f": {row.command}")
