"""`gpumod switch MODE`, which is also `gpumod mode switch MODE`."""

from __future__ import annotations

from typing import Any

import click

from gpumod.cli.change_options import change_options
from gpumod.cli.complete import ALTERNATIVES, MODES_TO_SWITCH_TO
from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("switch", "switch")
@click.argument("mode", shell_complete=MODES_TO_SWITCH_TO)
@click.option(
    "--with",
    "alternative",
    metavar="ID",
    shell_complete=ALTERNATIVES,
    help="Take this alternative (gpumod simulate finds them) of a mode that does not fit.",
)
@change_options
@click.option("--detach", is_flag=True, help="Leave once it has begun: it goes on without this terminal.")
@click.pass_obj
def switch(context: CliContext, /, detach: bool, **values: Any) -> None:
    """Switch the machine to MODE (`-`: the previous one): stop, sleep, wake and start what that takes.

    `-` brings the previous mode back as it was, with the alternative of it that had been taken.
    What fails on the way is rolled back. Ctrl-C rolls back too; a second one leaves it for `gpumod recover`. What was
    detached is followed by `gpumod history show --follow`.
    """
    if detach:
        from gpumod.cli.detach import detached

        detached(context, "switch", values)
    else:
        context.call("switch", values)
