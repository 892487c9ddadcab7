"""A change that goes on without the terminal, in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gpumod.cli.context import CliContext
    from gpumod.domain.progress import Progress


def detached(context: CliContext, operation: str, values: Mapping[str, Any]) -> None:
    """Do `operation` in another process and leave as soon as its run is journalled, with the run and its plan.

    What is refused, or ends before it has begun, is told by that process itself, and its exit status is given.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()  # neither a key of the terminal nor its end reaches it
        context.call(operation, values, progress=_Herald(writer))
        return
    os.close(writer)
    told = _heard(reader, child)
    if not told:
        raise click.exceptions.Exit(_status_of(child))
    context.finish(_begun(told))


class _Herald:
    """Tells the parent that the run has begun, and has no terminal from then on."""

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._told = False

    def __call__(self, news: Progress) -> None:
        if self._told or news.plan is None or not news.plan.steps:
            return
        self._told = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        with open(self._writer, "w", encoding="utf-8") as pipe:  # noqa: PTH123  # a descriptor
            pipe.write(news.model_dump_json())


def _heard(reader: int, child: int) -> str:
    """What the child says, until it closes the pipe; Ctrl-C meanwhile is passed on to it."""
    text = b""
    try:
        while True:
            try:
                piece = os.read(reader, 65536)
            except KeyboardInterrupt:
                os.kill(child, signal.SIGINT)
                continue
            if not piece:
                return text.decode()
            text += piece
    finally:
        os.close(reader)


def _status_of(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _begun(told: str) -> Any:
    from gpumod.domain.progress import Progress  # `--help` does without pydantic
    from gpumod.domain.run import RunStatus
    from gpumod.operations.results import ChangeResult

    news = Progress.model_validate_json(told)
    if news.plan is None:
        raise ValueError(f"no plan in {told!r:.100}")
    follow = f"gpumod history show {news.run_id} --follow"
    return ChangeResult(
        run_id=news.run_id,
        mode=news.plan.target.mode,
        status=RunStatus.RUNNING,
        plan=news.plan,
        notes=(f"it goes on without this terminal: {follow}",),
    )
