"""What commands have in common that hold something while another command runs: `free` and `service turn`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

import click

MOST_SHOWN = 60
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """`90s`, `15m`, `2h`, `1d`; a bare number is seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r:.100} is no time (as in 90s, 15m, 2h or 1d)", ctx=ctx, param=param)
    return float(found[1]) * UNITS[found[2]]


def shown(argv: Sequence[str]) -> str:
    """A command as others see it: its beginning."""
    from gpumod.cli.text import safe

    text = safe(shlex.join(argv))
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def refuse_missing(argv: Sequence[str], *, as_json: bool) -> None:
    """Leave, before anything is changed, where the command is not there (127) or cannot be executed (126)."""
    from gpumod.cli import foreground
    from gpumod.cli.failures import print_error
    from gpumod.domain.errors import ErrorInfo

    code = foreground.cannot_run(argv[0])
    if code:
        absent = code == foreground.NOT_FOUND
        error = ErrorInfo(
            code="no-such-command" if absent else "cannot-execute",
            message=f"{argv[0]} {'is not found' if absent else 'cannot be executed'}",
            why="nothing was changed",
            hint="name a program that is on your PATH, or its path"
            if absent
            else "name a program, and see that you may execute it",
        )
        print_error(error, as_json=as_json)
        raise click.exceptions.Exit(code)


def tell(notes: Iterable[str]) -> None:
    """What the command's own output leaves no place for."""
    from gpumod.cli.text import safe

    for note in notes:
        click.echo(safe(f"note: {note}"), err=True)
