"""`gpumod watch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from gpumod.cli.context import CliContext, quiet_pipe
from gpumod.cli.lazy import command
from gpumod.cli.streams import document


@command("watch", "watch")
@click.option("--once", is_flag=True, help="Look once, mend what is to be mended, and end.")
@click.option("--install", is_flag=True, help="Have systemd run it from boot on.")
@click.option("--uninstall", is_flag=True, help="Take that back. Services go on as they are.")
@click.option(
    "--manager", type=click.Choice(["user", "system"]), help="Whose systemd manager (else the one that is usual here)."
)
@click.pass_obj
def watch(context: CliContext, once: bool, install: bool, uninstall: bool, manager: str | None) -> None:
    """Keep the mode: bring `boot_mode` up after a boot, restart what ended by itself or lost its GPU, put to sleep
    what idles, and follow the health of services.

    Everything is done by a plan, as if it were typed. What was stopped by hand stays so; while somebody changes the
    machine it waits; a service that ends again and again is left alone, and that is said. It goes on until Ctrl-C or
    SIGTERM; services go on after that.

    With --json it prints one line for each time that something was done or is to be said.
    """
    if install and uninstall:
        raise click.UsageError("--install and --uninstall exclude each other")
    if manager and not (install or uninstall):
        raise click.UsageError("--manager goes with --install or --uninstall")
    if install or uninstall:
        context.call("watch", {"install": install, "uninstall": uninstall, "manager": manager})
        return
    if once:
        context.call("watch", {})
        return
    from gpumod.cli import foreground

    with foreground.unhurried() as heard:
        _again_and_again(context, heard, lambda until: foreground.wait(until, heard))


def _again_and_again(context: CliContext, heard: Sequence[int], wait: Callable[[float], bool]) -> None:
    """Look until a signal is heard; between two looks services are followed, or, where that cannot be, it waits.

    What is not right is said when it is new.
    """
    from gpumod.domain.errors import GpumodError

    known: Mapping[str, Any] = {}
    told: object = None
    begun = context.json
    while not heard:
        begin = time.time()
        interval_s = 10.0
        try:
            context.reopen()
            interval_s = context.settings().watch_interval_s
            seen: Any = context.run("watch", {**known, "follow_s": interval_s if known else None})
        except GpumodError as error:
            news: object = (error.info.code, error.info.message)
            if news != told:
                _say(context, error)
            if wait(begin + interval_s):
                return
        else:
            known, news = {"held": seen.held, "pulses": seen.pulses}, seen.notes
            if not begun:
                what = f"mode {seen.mode}" if seen.mode else "without a mode"
                click.echo(f"watching {what}; Ctrl-C ends it", err=True)
                begun = True
            if seen.mended or seen.transitions or (seen.notes and news != told):
                _say(context, seen)
            if seen.interrupted:
                return
        told = news


def _say(context: CliContext, news: Any) -> None:
    from gpumod.cli.failures import print_error
    from gpumod.domain.errors import GpumodError

    with quiet_pipe():
        if isinstance(news, GpumodError):
            print_error(news.info, as_json=context.json, compact=True)
        elif context.json:
            click.echo(document(news, None))
        else:
            context.show(news)
