"""docs/cli.md is what --help says. GPUMOD_UPDATE_SNAPSHOTS=1 writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from gpumod.cli.main import root
from gpumod.cli.table import COMMANDS

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"
INTRO = """# The command line

Generated from `--help`, and compared with it by a test. Commands that other distributions add (`gpumod sim`) are
described in theirs.

Every command takes `--json`: one JSON document on stdout, and nothing else there; only help stays the text that
it is (`--help --json`). Progress and errors go to stderr; with `--json` an error is
`{"error": {"code", "message", "why", "hint", "details"}}` on stdout. JSON and YAML are UTF-8, whatever the locale.

Where the output cannot be written, the exit status still tells what was done or refused. Only an answer that could not
be given (`status`, a simulation, a dry run) ends with 1, or with 141 where its reader went away; a stdout that
was closed on purpose (`>&-`) takes everything.

While a change is under way, Ctrl-C or SIGTERM goes back to what was there, with exit status 6; a second one leaves the
machine as it is, with 7, for `gpumod recover`. Before its first step they end it with 130 or 143, as they end commands
that only read, and nothing was changed. SIGHUP (a terminal that is closed, ssh that is lost) ends no
change: it goes on, and `gpumod history show last` tells how it ended.

`--set KEY=VALUE`: VALUE is JSON where it is valid JSON (`8`, `0.9`, `true`, `["a", "b"]`, `{"A": "1"}`), else text.
To give a text that looks like JSON, quote it as JSON: `--set 'tag="8"'`.
"""


def document() -> str:
    parts = [INTRO, *section(root, click.Context(root, info_name="gpumod", **root.context_settings), depth=2)]
    return "\n".join(parts)


def section(command: click.Command, context: click.Context, depth: int) -> list[str]:
    formatter = click.HelpFormatter(width=100, max_width=100)
    command.format_help(context, formatter)
    text = formatter.getvalue() if command is not root else without_extras(formatter.getvalue())
    parts = [f"{'#' * depth} {context.command_path}\n", f"```text\n{text.rstrip()}\n```\n"]
    if isinstance(command, click.Group):
        names = list(COMMANDS) if command is root else command.list_commands(context)
        for name in names:
            inner = command.get_command(context, name)
            if inner is not None:
                inner_context = click.Context(inner, info_name=name, parent=context, **inner.context_settings)
                parts += section(inner, inner_context, depth + (command is not root))
    return parts


def without_extras(text: str) -> str:
    """The help without what this installation happens to have: other distributions' commands."""
    return "\n".join(line for line in text.splitlines() if "(from " not in line)


def test_the_page_is_what_help_says() -> None:
    if not DOCS.parent.is_dir():
        pytest.skip("the documentation is in the repository alone")
    if os.environ.get("GPUMOD_UPDATE_SNAPSHOTS"):
        DOCS.write_text(document(), encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == document()
