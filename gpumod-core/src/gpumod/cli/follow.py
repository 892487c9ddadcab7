"""`service logs -f`: what is written to the log, as it comes; it survives rotation."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import click

from gpumod.cli.context import quiet_pipe
from gpumod.cli.text import safe
from gpumod.domain.base import Frozen
from gpumod.domain.errors import Failed
from gpumod.operations.results import LogsResult

POLL_S = 0.2


def follow_logs(result: Frozen, lines: int) -> None:
    """Print the last `lines` of the log and go on until Ctrl-C. Raises Failed `no-log-file`."""
    if not isinstance(result, LogsResult) or (result.path is None and not result.follow):
        raise _no_log("its supervisor keeps the log elsewhere, or it was never started")
    come = following(Path(result.path), lines) if result.path else printed(result.follow)
    try:
        with quiet_pipe():
            for line in come:
                click.echo(safe(line))
    except FileNotFoundError as error:
        raise _no_log(f"{result.path} does not exist") from error
    except KeyboardInterrupt:
        return


def _no_log(why: str) -> Failed:
    hint = "start it, or run the command without -f"
    return Failed("no-log-file", "this service has no log file to follow", why=why, hint=hint)


def following(path: Path, lines: int) -> Iterator[str]:
    """The last `lines` lines of `path`, then each line that is written; a file that is replaced or cut is read anew."""
    stream = path.open("r", encoding="utf-8", errors="replace")
    try:
        kept = stream.read().splitlines(keepends=True)
        partial = kept.pop() if kept and not kept[-1].endswith("\n") else ""
        yield from (line.rstrip("\n") for line in kept[-lines:])
        while True:
            partial += stream.read()
            *whole, partial = partial.split("\n")
            yield from whole
            if _replaced(path, stream):
                # The old file may have got a last line between the read and the rotation.
                yield from (partial + stream.read()).splitlines()
                stream.close()
                partial, stream = "", path.open("r", encoding="utf-8", errors="replace")
            elif not whole:
                time.sleep(POLL_S)
    finally:
        stream.close()


def printed(command: Sequence[str]) -> Iterator[str]:
    """The lines that a program prints, as they come."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is not None:
                for line in process.stdout:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
        finally:
            process.terminate()


def _replaced(path: Path, stream: TextIO) -> bool:
    try:
        now, ours = path.stat(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_dev) != (ours.st_ino, ours.st_dev) or now.st_size < stream.tell()
