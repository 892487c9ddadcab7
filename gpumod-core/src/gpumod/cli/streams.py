"""stdout and stderr that cannot be written: a reader that went away, a full disk, a stream that was closed.

What was done, or refused, decides the exit status then too; only an answer that could not be given is a failure.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING

import click

from gpumod.cli.text import safe

if TYPE_CHECKING:
    from pydantic import BaseModel

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


class _Stderr(TextIOWrapper):
    """Progress and messages: what nobody can read changes nothing of what is done."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare() -> None:
    """Let what a terminal's encoding cannot show be an escape and no error, and a closed stream take everything (or
    give nothing). A width of 0 is one that is not known."""
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the program runs
    if sys.stderr is None:  # else rich would take stdout for it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the program runs
    elif type(sys.stderr) is TextIOWrapper:  # as below
        encoding = sys.stderr.encoding
        sys.stderr = _Stderr(sys.stderr.buffer, encoding, "backslashreplace", line_buffering=True)
    out = sys.stdout
    if out is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for as long as the program runs
    elif type(out) is TextIOWrapper:  # no test's, and not made before
        encoding, by_lines = out.encoding, out.line_buffering
        sys.stdout = _Stdout(out.buffer, encoding, "backslashreplace", line_buffering=by_lines)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def document(result: BaseModel, indent: int | None = 2) -> str:
    """`result` as JSON. Ctrl-C meanwhile is Ctrl-C, of which pydantic leaves no more than its name in an error."""
    try:
        return result.model_dump_json(indent=indent)
    except ValueError as error:
        if KeyboardInterrupt.__name__ in str(error):
            raise KeyboardInterrupt from error
        raise


def in_utf8(stream: object) -> None:
    """Write UTF-8 from now on, whatever the locale: a document (JSON, YAML) with an escape in it means another text."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8")


def is_of_stdout(error: BaseException) -> bool:
    """True for the error of a write to stdout."""
    return isinstance(sys.stdout, _Stdout) and error is sys.stdout.error


def give_up(error: OSError, done: int | None = None) -> int:
    """Say on stderr why stdout could not be written (nothing, where its reader went away); the exit status.

    `done` is that of what was done or refused before, and stays; None: there was only an answer to give.
    """
    # What is still buffered would raise again when the interpreter closes stdout.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gone = isinstance(error, BrokenPipeError)
    if not gone:
        click.echo(f"error: the output could not be written: {safe(error.strerror or error)} (cannot-write)", err=True)
    if done is not None:
        return done
    return PIPE_CLOSED if gone else UNWRITABLE
