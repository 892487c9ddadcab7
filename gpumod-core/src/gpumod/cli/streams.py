"""stdout that cannot be written: a reader that went away, a full disk, a stream that was closed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper

import click

from gpumod.cli.text import safe

PIPE_CLOSED = 141
UNWRITABLE = 1


class _Stdout(TextIOWrapper):
    """Keeps what went wrong: nothing else tells an error of stdout from one of another file."""

    error: OSError | None = None

    def write(self, text: str, /) -> int:
        with self._watched():
            return super().write(text)

    def flush(self) -> None:
        with self._watched():
            super().flush()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


def prepare() -> None:
    """Let what a terminal's encoding cannot show be an escape and no error, and a closed stdout take everything."""
    out = sys.stdout
    if out is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the program runs
    elif type(out) is TextIOWrapper:  # no test's, and not made before
        encoding, by_lines = out.encoding, out.line_buffering
        sys.stdout = _Stdout(out.buffer, encoding, "backslashreplace", line_buffering=by_lines)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_of_stdout(error: BaseException) -> bool:
    """True for the error of a write to stdout."""
    return isinstance(sys.stdout, _Stdout) and error is sys.stdout.error


def give_up(error: OSError) -> int:
    """Say on stderr why stdout could not be written (nothing, where its reader went away); the exit status."""
    # What is still buffered would raise again when the interpreter closes stdout.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    with contextlib.suppress(OSError):
        click.echo(f"error: the output could not be written: {safe(error.strerror or error)} (cannot-write)", err=True)
    return UNWRITABLE
