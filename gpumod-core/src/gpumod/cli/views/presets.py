"""Presets."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from gpumod.cli.text import safe_lines
from gpumod.cli.views.parts import blocks, commas, pairs, problems, stack, table, words
from gpumod.operations.results import PresetListResult, PresetLoadResult, PresetResult, PresetValidateResult


def preset_list(result: PresetListResult) -> RenderableType:
    """Every preset and where it comes from."""
    rows = [
        (p.kind, p.id, "yes" if p.loaded else "no", commas(p.edited), p.distribution, p.name) for p in result.presets
    ]
    columns = ("KIND", "PRESET", "LOADED", "EDITED", "FROM", "NAME")
    return blocks(
        table(columns, rows, fold=("EDITED", "NAME")) if rows else words("no presets were found"),
        *problems(result.problems),
    )


def preset(result: PresetResult) -> RenderableType:
    """The YAML as it is; its first line says where it comes from."""
    head = safe_lines(f"# {result.kind} {result.id}: {result.source}")
    return Text("\n".join([*head, *safe_lines(result.yaml)]), overflow="ignore", no_wrap=True)


def loaded(result: PresetLoadResult) -> RenderableType:
    """What loading changed, what it kept, and what is broken."""
    facts = {
        "added": commas(result.added),
        "updated": commas(result.updated),
        "unchanged": commas(result.unchanged),
    }
    kept = [words(f"{name}: kept your {commas(fields)} (--update overwrites)") for name, fields in result.kept.items()]
    nothing = not any(facts.values()) and not result.problems
    return blocks(words("nothing to load") if nothing else stack(pairs(facts), *kept), *problems(result.problems))


def validated(result: PresetValidateResult) -> RenderableType:
    """Whether every file is right."""
    verdict = words("ok", "green") if result.ok else words("broken", "red")
    return blocks(stack(words(f"{result.checked} files checked"), verdict), *problems(result.problems))
