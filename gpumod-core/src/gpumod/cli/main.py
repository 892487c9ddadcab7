"""The program `gpumod`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from gpumod import __version__
from gpumod.cli import streams
from gpumod.cli.context import CliContext
from gpumod.cli.extras import extra_commands, load_extra_command
from gpumod.cli.failures import exit_status_of, report
from gpumod.cli.inputs import Folder
from gpumod.cli.last_word import LAST_WORD
from gpumod.cli.lazy import LazyGroup
from gpumod.cli.table import COMMANDS
from gpumod.cli.unheard import tell_again


class Program(LazyGroup):
    """The root group. It turns every error into its text (or JSON) and exit status."""

    def main(  # type: ignore[override]  # it always leaves, whatever the mode
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *, leaving: bool = False, **extra: Any
    ) -> NoReturn:
        """Run it. `leaving`: the process ends with it."""
        argv = list(sys.argv[1:] if args is None else args)
        options = argv[: argv.index("--")] if "--" in argv else argv
        as_json, debug = "--json" in options, "--debug" in options
        extra["standalone_mode"] = False
        context = CliContext(json=as_json, debug=debug)
        streams.prepare()
        try:
            code = self._run(argv, prog_name or "gpumod", context, **extra)
            sys.stdout.flush()
        except OSError as error:
            code = streams.give_up(error, context.done)
        finally:
            LAST_WORD.give_back(leaving=leaving)
        sys.exit(code)

    def _run(self, argv: list[str], prog_name: str, context: CliContext, **extra: Any) -> int:
        """The exit status, errors told. Raises OSError where stdout cannot be written."""
        as_json, debug = context.json, context.debug
        try:
            code = super().main(argv, prog_name, obj=context, **extra)
        except (KeyboardInterrupt, Exception) as error:  # the last resort: no traceback reaches a user
            if streams.is_of_stdout(error):
                raise
            context.done = exit_status_of(error)
            report(error, as_json=as_json, debug=debug)
            return context.done
        return code if isinstance(code, int) else 0


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        as_json = ctx.obj is not None and ctx.obj.json
        click.echo(json.dumps({"version": __version__}) if as_json else f"gpumod, version {__version__}")
        ctx.exit()


@click.group(
    "gpumod",
    cls=Program,
    table=COMMANDS,
    extras=extra_commands,
    load_extra=load_extra_command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--home", type=Folder(file_okay=False, path_type=Path), help="Folder of gpumod's data (else GPUMOD_HOME)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout (help stays text).")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.pass_context
def root(ctx: click.Context, home: Path | None, as_json: bool, debug: bool) -> None:
    """gpumod keeps the AI services of a GPU machine inside the memory that its GPUs have.

    A mode names what runs together. `gpumod simulate` shows whether it fits, `gpumod switch` goes there. New here?
    `gpumod demo` is a tour that touches nothing of yours, `gpumod init` makes this machine ready.

    Exit status: 0 done, 1 failed and nothing changed, 2 usage, 3 does not fit, 4 unknown name, 5 busy, 6 failed and
    rolled back, 7 left half-way, 8 the plan is stale, 9 the machine lacks something. Ctrl-C or SIGTERM during a change
    goes back (6), a second one leaves it half-way (7), and before its first step nothing is changed (130, 143); after
    SIGHUP a change goes on.
    """
    context = ctx.ensure_object(CliContext)
    context.home, context.json, context.debug = home, as_json, debug


def main() -> NoReturn:
    """Run the program and leave with its exit status."""
    sys.unraisablehook = tell_again
    root.main(leaving=True)
