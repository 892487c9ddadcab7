"""Errors as people and programs see them: message, why and hint on stderr, or one JSON document on stdout."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from typing import TYPE_CHECKING

import click

from gpumod.cli.text import safe, safe_lines

if TYPE_CHECKING:
    from gpumod.domain.errors import ErrorInfo

INTERRUPTED = 130


def exit_status_of(error: BaseException) -> int:
    """The exit status of a command that ended with `error`."""
    from gpumod.domain.errors import GpumodError  # `--help` does without pydantic

    error = _known(error)
    if isinstance(error, GpumodError | click.ClickException):
        return error.exit_code
    return INTERRUPTED if isinstance(error, click.Abort | KeyboardInterrupt) else 1


def report(error: BaseException, *, as_json: bool, debug: bool) -> None:
    """Print `error`."""
    from gpumod.domain.errors import GpumodError  # `--help` does without pydantic

    if debug:
        traceback.print_exception(error, file=sys.stderr)
    error = _known(error)
    if isinstance(error, GpumodError):
        print_error(error.info, as_json=as_json)
    elif isinstance(error, click.Abort | KeyboardInterrupt):
        _print_plain("interrupted", "interrupted", str(error.__cause__ or error), "", as_json=as_json)
    elif isinstance(error, click.ClickException):
        _report_click(error, as_json=as_json)
    else:
        what = f"a bug in gpumod: {type(error).__name__}: {error}"
        hint = "run it again with --debug and report what it prints"
        _print_plain("internal-error", what, "", hint, as_json=as_json)


def _known(error: BaseException) -> BaseException:
    """`error` in gpumod's words, where it is a full disk: that can meet every file that is written."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    from gpumod.domain.errors import MachineLacks  # `--help` does without pydantic

    return MachineLacks(
        "disk-full", "no room left on a disk", why=str(error), hint="free some disk space and try again"
    )


def _report_click(error: click.ClickException, *, as_json: bool) -> None:
    ctx = getattr(error, "ctx", None)
    if as_json:
        hint = (
            _json_of_a_group(error)
            or f"`{ctx.command_path if ctx is not None else 'gpumod'} --help` tells what there is"
        )
        bare = isinstance(error, click.exceptions.NoArgsIsHelpError)  # its message is the whole help
        _print_plain("usage", "Missing command." if bare else error.format_message(), "", hint, as_json=True)
    else:
        error.show(file=sys.stderr)


def _json_of_a_group(error: click.ClickException) -> str:
    """Where `--json` goes, if that is what is wrong: a group of commands has no output of its own."""
    ctx = getattr(error, "ctx", None)
    lone = isinstance(error, click.NoSuchOption) and error.option_name == "--json"
    if not lone or ctx is None or not isinstance(ctx.command, click.Group):
        return ""
    commands = ctx.command.list_commands(ctx)
    one = "list" if "list" in commands else next(iter(commands), "COMMAND")
    return f"--json goes after the command, as in `{ctx.command_path} {one} --json`, or right after gpumod"


def print_error(info: ErrorInfo, *, as_json: bool, compact: bool = False) -> None:
    """Print one error, in JSON as `{"error": {...}}` (`compact`: on one line)."""
    if as_json:
        click.echo(json.dumps({"error": info.model_dump(mode="json")}, indent=None if compact else 2))
    else:
        click.echo("\n".join(error_lines(info)), err=True)


def error_lines(info: ErrorInfo) -> list[str]:
    """`info` for people: what happened, why, what to try."""
    lines = [f"error: {safe(info.message)} ({safe(info.code)})"]
    lines += [f"  why: {line}" if n == 0 else f"       {line}" for n, line in enumerate(safe_lines(info.why))]
    lines += [f"  try: {line}" if n == 0 else f"       {line}" for n, line in enumerate(safe_lines(info.hint))]
    return lines


def _print_plain(code: str, message: str, why: str, hint: str, *, as_json: bool) -> None:
    from gpumod.domain.errors import ErrorInfo  # `--help` does without pydantic

    print_error(ErrorInfo(code=code, message=message, why=why, hint=hint), as_json=as_json)
