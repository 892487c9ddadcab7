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
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                live.update(render(context.run("status", {}), visual=visual), refresh=True)
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return
