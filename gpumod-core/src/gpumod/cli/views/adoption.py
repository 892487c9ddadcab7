"""What was found, adopted, released and imported."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.failures import error_lines
from gpumod.cli.views.parts import blocks, bullets, commas, heading, line, mb, pairs, stack, table, words
from gpumod.domain.service import Service
from gpumod.operations.adoption_results import AdoptResult, ImportResult, Proposal, ReleaseResult
from gpumod.operations.results import InitResult


def adopted(result: AdoptResult) -> RenderableType:
    """The service that it became."""
    service, taken = result.service, result.footprint
    source = taken.sources.get("vram_mb")
    facts = {
        "service": words(service.id, "bold"),
        "adopted": str(service.adopted),
        **_facts(service),
        "takes": f"{mb(taken.vram_mb)} ({source})" if source else mb(taken.vram_mb),
        "processes": commas(result.pids[:8]) or "none: it is down",
    }
    return blocks(pairs(facts), bullets(result.notes) if result.notes else None)


def _facts(service: Service) -> dict[str, str]:
    model = service.model_path or service.model_id or ""
    return {"driver": service.driver, "port": str(service.port or ""), "model": model}


def released(result: ReleaseResult) -> RenderableType:
    """What is left to itself."""
    return words(f"released {result.id}: the {result.what} is {'gone' if result.gone else 'left as it is'}")


def imported(result: ImportResult) -> RenderableType:
    """What became of each entry."""
    rows = [
        (row.name, row.id, row.action, row.service.driver if row.service else "", row.service and row.service.port)
        for row in result.rows
    ]
    told = [f"{row.id}: {text}" for row in result.rows for text in ((row.why,) if row.why else ()) + row.notes]
    return blocks(
        words(f"from {result.source}" + (" (a dry run: nothing was written)" if result.dry_run else "")),
        table(("NAME", "SERVICE", "WHAT", "DRIVER", "PORT"), rows, right=("PORT",), fold=("NAME",)),
        bullets((*result.notes, *told)) if told or result.notes else None,
    )


def found(result: InitResult) -> list[RenderableType | None]:
    """What `gpumod init` found on a real machine."""
    programs = [(row.name, row.version or row.why, row.path) for row in result.programs]
    folders = [line(row.path, f"  {row.models}{' or more' if row.more else ''} models") for row in result.model_folders]
    return [
        stack(heading("Programs"), table(("PROGRAM", "VERSION", "PATH"), programs, fold=("VERSION", "PATH")))
        if programs
        else None,
        stack(heading("Models"), *folders) if folders else None,
        stack(heading("Found, and could be managed"), *map(_proposal, result.proposals)) if result.proposals else None,
        words(f"now managed: {commas(result.taken)}", "green") if result.taken else None,
        words(
            f"counted as nothing until it has run: {commas(result.counted_as_nothing)}"
            " (gpumod service edit ID --vram-mb MB says what it takes)",
            "yellow",
        )
        if result.counted_as_nothing
        else None,
    ]


def _proposal(proposal: Proposal) -> RenderableType:
    state = "running" if proposal.running else "down" if proposal.kind != "llama-swap" else ""
    held = f"holds {mb(proposal.held_mb)}" if proposal.held_mb else ""
    about = commas(text for text in (proposal.what, state, held) if text)
    shown = _facts(proposal.service).items() if proposal.service else ()
    facts = [f"{key} {value}" for key, value in shown if value]
    lines = [line(words(proposal.id, "bold"), "  ", about)]
    if proposal.problem is not None:
        return stack(*lines, *(words(f"  {text}", "yellow") for text in error_lines(proposal.problem)))
    notes = [words(f"  {note}") for note in proposal.notes]
    return stack(
        *lines, *([words(f"  {commas(facts)}")] if facts else []), *notes, words(f"  {proposal.command}", "dim")
    )
