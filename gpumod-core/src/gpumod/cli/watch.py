"""`status --watch`: the status drawn again every second, until Ctrl-C."""

from __future__ import annotations

import time

from rich.live import Live

from gpumod.cli.context import CliContext
from gpumod.cli.views import render, stdout_console

EVERY_S = 1.0


def watch_status(context: CliContext, *, visual: bool) -> None:
    """Redraw until Ctrl-C, which is the ordinary end."""
    console = stdout_console()
    try:
        while not console.is_terminal:  # nothing to draw over: one after the other
            context.show(context.run("status", {}), visual=visual)
            time.sleep(EVERY_S)
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(render(context.run("status", {}), visual=visual), refresh=True)
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return
