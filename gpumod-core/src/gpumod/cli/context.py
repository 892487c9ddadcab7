"""What every command gets: the home, the output form, and the one way to call an operation and show its result."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumod.cli.last_word import LAST_WORD
from gpumod.cli.streams import document, give_up, in_utf8
from gpumod.cli.typed import as_typed, bad_params, options_of

if TYPE_CHECKING:
    from gpumod.domain.base import Frozen
    from gpumod.domain.progress import Progress
    from gpumod.domain.settings import Settings
    from gpumod.operations.catalogue import Operation
    from gpumod.operations.gpumod import Gpumod

    Listener = Callable[[Progress], None]


@dataclass
class CliContext:
    """The state of one invocation (`ctx.obj`). `home` None means GPUMOD_HOME or the user's data folder.

    `done` is the exit status of what was done or refused, whatever becomes of the output; None: nothing yet.
    """

    home: Path | None = None
    json: bool = False
    debug: bool = False
    done: int | None = None
    _gpumod: Gpumod | None = field(default=None, repr=False)
    _told_lost: bool = field(default=False, repr=False)

    def gpumod(self, *, make_named: bool = False) -> Gpumod:
        """The application, opened at the first call. A home that is named is made where `make_named` says so alone."""
        if self._gpumod is None:
            import logging  # `--help` does without it

            from gpumod.bootstrap import open_gpumod  # opened when a command needs it

            # where nobody listens, logging itself would print the tracebacks that are kept for --debug
            logging.getLogger("gpumod").handlers[:] = [] if self.debug else [logging.NullHandler()]
            self._gpumod = open_gpumod(self.home, os.environ, make_named=make_named)
        return self._gpumod

    def reopen(self) -> None:
        """Open the application anew at the next call: time has passed, and definitions may be others."""
        self._gpumod = None

    def settings(self) -> Settings:
        """The settings in effect."""
        return self.gpumod().settings_effective()

    def call(
        self, operation: str, values: Mapping[str, Any], *, progress: Listener | None = None, **view_options: Any
    ) -> None:
        """Run `operation` with `values`, show its result, and leave with its exit status.

        Raises GpumodError: UsageError `bad-input` for values that the operation's parameters refuse, else what
        the operation raises. `view_options` go to the human view alone.
        """
        self.finish(self.run(operation, values, progress), **view_options)

    def run(self, operation: str, values: Mapping[str, Any], progress: Listener | None = None) -> Frozen:
        """Run `operation` and return its result; progress of a change goes to `progress`, else to stderr.

        Raises KeyboardInterrupt, with what is sure of it.
        """
        record = _record(operation)
        try:
            return self._run(record, values, progress)
        except KeyboardInterrupt:
            from gpumod.operations.results import ChangeResult

            # once its first step is journalled, a change hears the signals itself, and ends with a result
            one_change = record.effect == "change" and record.result is ChangeResult
            raise KeyboardInterrupt("nothing was changed" if one_change else "") from None

    def _run(self, record: Operation, values: Mapping[str, Any], progress: Listener | None) -> Frozen:
        import asyncio  # half of the time that `gpumod --help` takes

        params = self.params(record, values)
        gpumod = self.gpumod(make_named=record.name == "init")
        self._tell_lost(gpumod)
        method = getattr(gpumod, record.name)
        from gpumod.domain.errors import UsageError  # `--help` does without pydantic

        try:
            result: Frozen
            if record.effect == "change" or record.follows:
                from gpumod.cli.progress import ProgressView  # rich is for changes alone

                if record.effect == "change":
                    LAST_WORD.take()
                with ProgressView.on_stderr() as view:
                    result = asyncio.run(method(params, progress=_until_it_ended(progress or view)))
            else:
                result = asyncio.run(method(params))
        except UsageError as error:
            raise as_typed(error, _typed()) from error
        self._keep(record, result)
        return result

    def _tell_lost(self, gpumod: Gpumod) -> None:
        """Say on stderr, once, that the database was lost: whatever else is told would mislead without that."""
        lost = None if self._told_lost else gpumod.database_lost()
        self._told_lost = True
        if lost is not None:
            from gpumod.cli.text import safe

            click.echo(safe(f"note: {lost.message}; {lost.why} ({lost.hint})"), err=True)

    def _keep(self, record: Operation, result: Frozen) -> None:
        """Keep the exit status of what `result` did; one that only answers did nothing."""
        from gpumod.cli.exits import did_something, exit_code_of  # needs the results

        if record.effect != "read" and did_something(result):
            self.done = exit_code_of(result)

    @staticmethod
    def params(record: Operation, values: Mapping[str, Any]) -> Frozen:
        """The operation's parameters, or UsageError `bad-input`. A value of None leaves the default."""
        from pydantic import ValidationError  # `--help` does without it

        try:
            return record.params.model_validate({key: v for key, v in values.items() if v is not None})
        except ValidationError as error:
            raise bad_params(error, _typed(), _command_path()) from error

    def finish(self, result: Frozen, **view_options: Any) -> None:
        """Print `result` and leave with its exit status."""
        if self.done is not None:
            from gpumod.cli.exits import exit_code_of  # needs the results

            self.done = exit_code_of(result)
        try:
            self.show(result, **view_options)
        except (OSError, click.exceptions.Exit):  # stdout cannot be written: what went wrong is told all the same
            self._tell(result)
            raise
        self.conclude(result)

    def conclude(self, result: Frozen) -> None:
        """Leave with the exit status of `result`, whose error people see on stderr."""
        from gpumod.cli.exits import exit_code_of  # needs the results

        self._tell(result)
        code = exit_code_of(result)
        if code:
            raise click.exceptions.Exit(code)

    def _tell(self, result: Frozen) -> None:
        from gpumod.cli.exits import error_of  # needs the results

        error = error_of(result)
        if error is not None and not self.json:
            from gpumod.cli.failures import print_error

            print_error(error, as_json=False)

    def show(self, result: Frozen, **view_options: Any) -> None:
        """Print `result` on stdout, as JSON or for people."""
        with quiet_pipe(self.done):
            if self.json:
                in_utf8(sys.stdout)
                click.echo(document(result))
            else:
                from gpumod.cli.views import print_on, render, stdout_console  # rich is for people alone

                print_on(stdout_console(), render(result, **view_options))
            sys.stdout.flush()


def _until_it_ended(view: Listener) -> Listener:
    """Progress for `view`; when the change has ended, its result is to be told in any case."""
    from gpumod.domain.progress import ProgressKind  # imports pydantic

    def tell(news: Progress) -> None:
        LAST_WORD.due = LAST_WORD.due or news.kind is ProgressKind.ENDED
        view(news)

    return tell


def _record(operation: str) -> Operation:
    from gpumod.operations.catalogue import OPERATIONS  # imports pydantic

    return next(record for record in OPERATIONS if record.name == operation)


def _typed() -> Mapping[str, str]:
    """What is typed for each parameter of the command that runs."""
    current = click.get_current_context(silent=True)
    return options_of(current.command) if current else {}


def _command_path() -> str:
    """The command that runs, as it is typed."""
    current = click.get_current_context(silent=True)
    return current.command_path if current else "gpumod"


@contextlib.contextmanager
def quiet_pipe(done: int | None = None) -> Any:
    """A reader that went away ends the command without a word; `done` as in :class:`CliContext`."""
    try:
        yield
    except BrokenPipeError as error:  # before click, which would make it a failure
        raise click.exceptions.Exit(give_up(error, done)) from None
