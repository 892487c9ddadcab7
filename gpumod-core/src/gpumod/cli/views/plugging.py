"""Plugins written and checked."""

from __future__ import annotations

from rich.console import RenderableType

from gpumod.cli.views.parts import blocks, bullets, commas, heading, stack, table, words
from gpumod.operations.plugin_results import PluginCheckResult, PluginNewResult


def written(result: PluginNewResult) -> RenderableType:
    """The folder, its files, and what to type next."""
    return blocks(
        words(f"written: {result.folder}", "bold"),
        bullets(result.files),
        stack(heading("Next"), bullets(result.next)),
    )


def checked(result: PluginCheckResult) -> RenderableType:
    """Each suite with its counts, and each test that failed with the reason."""
    rows = [
        (
            f"{row.kind} {row.name}",
            row.distribution,
            str(row.count("passed")),
            words(str(len(row.failed)), "red" if row.failed else ""),
            commas(row.examples),
        )
        for row in result.suites
    ]
    failed = [f"{test.test}: {test.why}" for row in result.suites for test in row.failed]
    untested = [f"{row.kind} {row.name}: {row.untested}" for row in result.suites if row.untested]
    return blocks(
        table(("WHAT", "DISTRIBUTION", "PASSED", "FAILED", "TESTED WITH"), rows, fold=("TESTED WITH",)),
        stack(heading("Promises that are not kept"), bullets(failed)) if failed else None,
        stack(heading("Not tested"), bullets(untested)) if untested else None,
        words("it keeps its promises", "green") if result.ok else words("it does not keep its promises", "red"),
    )
