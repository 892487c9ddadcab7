"""`gpumod import`: services from what another manager runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gpumod.cli.context import CliContext
from gpumod.cli.lazy import subcommand

F = TypeVar("F", bound=Callable[..., Any])


@click.group("import")
def importing() -> None:
    """Services from what another manager runs. Its own files are only read."""


def _options(function: F) -> F:
    """How much of it is done."""
    dry = click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
    update = click.option("--update", is_flag=True, help="Replace services that are there already.")
    return update(dry(function))


@subcommand(importing, "llama-swap", "import_llama_swap")
@click.argument("file", type=click.Path())
@_options
@click.pass_obj
def llama_swap(context: CliContext, /, **values: Any) -> None:
    """A service for each model in llama-swap's configuration FILE.

    gpumod starts them then, llama-swap no more.
    """
    context.call("import_llama_swap", values)


@subcommand(importing, "ollama", "import_ollama")
@click.option("--port", type=int, default=11434, show_default=True, metavar="PORT", help="Where it answers.")
@click.option("--id", "id", default="ollama", show_default=True, metavar="ID", help="Its name.")
@_options
@click.pass_obj
def ollama(context: CliContext, /, **values: Any) -> None:
    """Adopt the ollama of this machine as one service. It goes on loading and unloading its models by itself."""
    context.call("import_ollama", values)
