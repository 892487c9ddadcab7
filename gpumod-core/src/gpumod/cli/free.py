"""`gpumod free`."""

from __future__ import annotations

import os
from typing import Any

import click

from gpumod.cli.change_options import change_options
from gpumod.cli.context import CliContext
from gpumod.cli.held import refuse_missing, seconds, shown, tell
from gpumod.cli.last_word import LAST_WORD
from gpumod.cli.lazy import command


@command("free", "free")
@click.argument("mb", type=int, required=False, metavar="[MB]")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--gpu", type=int, metavar="N", help="On this GPU (else where it is cheapest).")
@click.option("--for", "for_s", metavar="TIME", callback=seconds, help="At most so long: 90s, 15m, 2h, 1d.")
@click.option("--back", is_flag=True, help="Put back what made room before.")
@change_options
@click.pass_obj
def free(
    context: CliContext, /, mb: int | None, argv: tuple[str, ...], for_s: float | None, back: bool, **values: Any
) -> None:
    """Make room: MB MiB of a GPU are kept free while COMMAND runs or for a TIME, then everything is put back.

    Services are rather put to sleep than stopped; pinned ones stay. Other gpumod commands see the lease, count it, and
    give way unless they are forced. COMMAND has the terminal, the signals and CUDA_VISIBLE_DEVICES; with --for it is
    ended when the time is over (exit 124). The lease is COMMAND's: it outlives a gpumod that is killed (then
    `gpumod free --back` puts back), and ends with it: from then on others may take the room. Without COMMAND and --for
    the room stays until `gpumod free --back`.

    The exit status is COMMAND's own (128+N: ended by signal N) when all went well, 126 where it cannot be executed, 127
    where it is not found; 3 when there is no such room, others as always. With --json the document follows what
    COMMAND prints.
    """
    if back:
        if mb is not None or argv or for_s is not None:
            raise click.UsageError("--back takes neither MB nor COMMAND nor --for")
        context.call("free", {"back": True, **values})
        return
    if mb is None:
        raise click.UsageError("say how many MiB, or --back")
    from gpumod.cli import foreground
    from gpumod.cli.text import safe

    if argv:
        refuse_missing(argv, as_json=context.json)
    runs = foreground.Command(argv) if argv and not values["dry_run"] else None
    held_by = runs.pid if runs else None if for_s is None else os.getpid()
    ended: int | None = None
    try:
        made: Any = context.run("free", {"mb": mb, "what": shown(argv), "for_s": for_s, "pid": held_by, **values})
        if made.lease is None or held_by is None:
            context.finish(made)
            return
        LAST_WORD.due = False  # the lease ends with this process, or with COMMAND: that is no time to be deaf
        if not context.json:
            click.echo(safe(made.lease.in_words), err=True)
        if runs:
            ended = runs.run(made.env, made.lease.until)
        else:
            foreground.wait(made.lease.until)
    finally:
        if runs:
            runs.drop()
    with foreground.unhurried():
        context.reopen()
        back_again: Any = context.run("free", {"back": True, "lease": made.lease.id, **_of_the_way_back(values)})
    whole = made.model_copy(
        update={"lease": None, "back": back_again.back, "command_exit": ended, "notes": back_again.notes}
    )
    if argv and not context.json:
        tell(whole.notes)
        context.conclude(whole)
    else:
        context.finish(whole)


def _of_the_way_back(values: dict[str, Any]) -> dict[str, Any]:
    return {"timeout_s": values["timeout_s"], "force": values["force"]}
