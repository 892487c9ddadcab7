"""Room that was made, and what was put back."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.change import change
from gpumod.cli.views.parts import blocks, bullets, line, words
from gpumod.operations.lease_results import FreeResult


def freed(result: FreeResult) -> RenderableType:
    """What making room did, who holds it, how it is put back; or what putting back did."""
    notes = [words(note) for note in result.notes]
    if result.next:
        notes.append(line("puts everything back: ", words(result.next, "bold")))
    return blocks(
        change(result.change) if result.change else None,
        words(result.lease.in_words, "green") if result.lease else None,
        change(result.back) if result.back else None,
        bullets(notes) if notes else None,
    )
