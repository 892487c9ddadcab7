"""`gpumod export`, `gpumod diff` and `gpumod apply`: all that is defined, as one document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gpumod.cli.change_options import change_options
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import read_text
from gpumod.cli.lazy import command

F = TypeVar("F", bound=Callable[..., Any])


def _document(function: F) -> F:
    """The options that name a document and how much of it counts."""
    prune = click.option("--prune", is_flag=True, help="Remove what the document does not name.")
    file = click.option(
        "-f", "--file", required=True, metavar="FILE", type=click.Path(), help="The document (-: from stdin)."
    )
    return file(prune(function))


@command("export", "export")
@click.pass_obj
def export(context: CliContext) -> None:
    """Print services, modes and settings as one YAML document, which `gpumod apply` reads.

    It holds what differs from the defaults, in the words of presets. Secrets and the settings of a simulated machine
    are left out; stderr says which. Exit status 1 where the document is not whole, because something that is defined
    cannot be read: it is printed all the same, and stderr says what is missing.
    """
    result: Any = context.run("export", {})
    context.show(result)
    if not context.json:
        from gpumod.cli.text import safe

        for note in result.left_out:
            click.echo(f"left out: {safe(note)}", err=True)
    context.conclude(result)


@command("diff", "diff")
@_document
@click.option("--exit-code", is_flag=True, help="Exit 1 when something differs, for scripts.")
@click.pass_obj
def diff(context: CliContext, file: str, prune: bool, exit_code: bool) -> None:
    """Show what `gpumod apply` of the document would change, field by field. Nothing is written.

    Exit status 0, whether something differs or not (1 would mean that it failed); with --exit-code 1 when something
    differs, as in `git diff`.
    """
    text, source = read_text(file, "a YAML file")
    result: Any = context.run("diff", {"text": text, "source": source, "prune": prune})
    context.show(result)
    if exit_code and result.changes:
        raise click.exceptions.Exit(1)


@command("apply", "apply")
@_document
@click.option("--now", is_flag=True, help="Also bring what runs to the new definitions, by one plan.")
@change_options
@click.pass_obj
def apply(context: CliContext, /, file: str, **values: Any) -> None:
    """Make services, modes and settings what the document says: all of it, or nothing where anything is wrong.

    Doing it again changes nothing. Nothing is removed without --prune, and nothing that runs is restarted or stopped
    without --now: services that run with an old definition are shown. With --now a plan that does not fit, or fails,
    leaves the definitions as they were.
    """
    text, source = read_text(file, "a YAML file")
    context.call("apply", {"text": text, "source": source, **values})
