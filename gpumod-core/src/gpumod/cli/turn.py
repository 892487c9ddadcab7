"""`gpumod service turn` and `gpumod service sleep-idle`."""

from __future__ import annotations

from typing import Any

import click

from gpumod.cli.complete import SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.held import refuse_missing, seconds, shown, tell
from gpumod.cli.last_word import LAST_WORD
from gpumod.cli.lazy import command


@command("turn", "service_turn")
@click.argument("service", shell_complete=SERVICES)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--wait", "wait_s", metavar="TIME", callback=seconds, help="Wait at most so long for the turn: 90s, 15m.")
@click.option("--timeout", "timeout_s", type=float, metavar="S", help="Seconds that each start may take.")
@click.pass_obj
def turn(
    context: CliContext, /, service: str, argv: tuple[str, ...], wait_s: float | None, timeout_s: float | None
) -> None:
    """Keep SERVICE awake while COMMAND runs, then let it sleep again.

    In a mode whose members take turns the one that is awake goes to sleep for it, once nobody uses that any more: who
    asks first comes first, and several have a turn with the same service together. Other gpumod commands see the turn
    and keep SERVICE awake, unless they are forced. COMMAND has the terminal and the signals, and finds the service by
    GPUMOD_URL. The turn is COMMAND's: it outlives a gpumod that is killed, and ends with it.

    The exit status is COMMAND's own (128+N: ended by signal N) when all went well, 126 where it cannot be executed, 127
    where it is not found; 5 where no turn came within --wait; others as always. With --json the
    document follows what COMMAND prints.
    """
    from gpumod.cli import foreground

    if not argv:
        raise click.UsageError("say what to run: -- COMMAND...")
    refuse_missing(argv, as_json=context.json)
    runs = foreground.Command(argv)
    try:
        asked = {"service": service, "pid": runs.pid, "what": shown(argv), "wait_s": wait_s, "timeout_s": timeout_s}
        made: Any = context.run("service_turn", asked)
        if made.turn is None:
            context.finish(made)
            return
        LAST_WORD.due = False  # the turn ends with COMMAND: that is no time to be deaf
        try:
            ended = runs.run(made.env, None)
        finally:  # also where a signal comes before COMMAND has them
            runs.drop()
            with foreground.unhurried():
                context.reopen()
                over = _over(context, made.turn.id)
    finally:
        runs.drop()
    whole = made.model_copy(update={"turn": None, "back": over.back, "command_exit": ended, "notes": over.notes})
    if context.json:
        context.finish(whole)
    else:
        tell(whole.notes)
        context.conclude(whole)


def _over(context: CliContext, turn: str) -> Any:
    """End a turn whose COMMAND has ended; whoever looked at the queue since then may have cleared it away already."""
    from gpumod.domain.errors import UnknownName
    from gpumod.operations.use_results import TurnResult

    try:
        return context.run("service_turn", {"end": turn})
    except UnknownName:
        return TurnResult()


@command("sleep-idle", "auto_sleep_idle")
@click.option("--dry-run", is_flag=True, help="Show what idles, and the plan, and change nothing.")
@click.option("--no-rollback", is_flag=True, help="If it fails, leave it as it is for `gpumod recover`.")
@click.pass_obj
def sleep_idle(context: CliContext, /, **values: Any) -> None:
    """Put to sleep what nobody has used for its idle time-out, as `gpumod watch` does all the time.

    What was seen is kept until the next look, from which on the idle time of servers is known that do not tell when
    they were used last.
    """
    context.call("auto_sleep_idle", values)
