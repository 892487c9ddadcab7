"""`gpumod template ...`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gpumod.cli.complete import SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.inputs import read_text
from gpumod.cli.lazy import subcommand


@click.group("template")
def template() -> None:
    """What systemd units are made of."""


@subcommand(template, "list", "template_list")
@click.pass_obj
def list_templates(context: CliContext) -> None:
    """Every template, whose it is, and what yours hide."""
    context.call("template_list", {})


@subcommand(template, "show", "template_show")
@click.argument("template")
@click.pass_obj
def show(context: CliContext, template: str) -> None:
    """The text of TEMPLATE."""
    context.call("template_show", {"template": template})


@subcommand(template, "render", "template_render")
@click.argument("template")
@click.argument("service", shell_complete=SERVICES)
@click.pass_obj
def render(context: CliContext, template: str, service: str) -> None:
    """The unit that SERVICE would have if it were made of TEMPLATE."""
    context.call("template_render", {"template": template, "service": service})


@subcommand(template, "edit", "template_edit")
@click.argument("template")
@click.option("-f", "--file", metavar="FILE", type=click.Path(), help="Take its text from FILE (-: from stdin).")
@click.option("--default", "restore", is_flag=True, help="Take yours away: the one below it counts again.")
@click.pass_obj
def edit(context: CliContext, template: str, file: str | None, restore: bool) -> None:
    """Put your own TEMPLATE into the home, where it wins. Without --file in your $EDITOR, from what counts now.

    Nothing is restarted: `gpumod service unit` shows the difference.
    """
    if file is not None and restore:
        raise click.UsageError("give either --file or --default")
    if restore:
        text = None
    else:
        text = _edited(context, template) if file is None else read_text(file, "a file with its text")[0]
    context.call("template_edit", {"template": template, "text": text})


def _edited(context: CliContext, template: str) -> str:
    """The text as the user's editor leaves it."""
    if not (sys.stdin.isatty() or os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        raise click.UsageError("there is no terminal for an editor: give its text by --file")
    shown: Any = context.run("template_show", {"template": template})
    try:
        text = click.edit(shown.text, extension=".service.j2", require_save=False)
    except (click.ClickException, ValueError) as error:  # ValueError: EDITOR holds a quote that is not closed
        from gpumod.domain.errors import Failed  # imports pydantic

        raise Failed(
            "no-editor",
            "your editor could not be started, or ended with an error: nothing was changed",
            why=str(error),
            hint=f"set VISUAL or EDITOR to one that is there, or: gpumod template edit {template} --file FILE",
        ) from error
    return str(shown.text if text is None else text)
