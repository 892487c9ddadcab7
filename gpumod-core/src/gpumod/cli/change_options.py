"""The options of changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def change_options(function: F) -> F:
    """What every change has: --dry-run, --no-rollback, --timeout, --force."""
    for option in reversed(
        (
            click.option(
                "--dry-run", is_flag=True, help="Show the plan and change nothing (exit 3 if it does not fit)."
            ),
            click.option("--no-rollback", is_flag=True, help="If it fails, leave it as it is for `gpumod recover`."),
            click.option("--timeout", "timeout_s", type=float, metavar="S", help="Seconds that each start may take."),
            click.option(
                "--force",
                is_flag=True,
                help="Go on though it does not fit, or a turn is in the way (never beside another change).",
            ),
        )
    ):
        function = option(function)
    return function


def service_change_options(function: F) -> F:
    """What the change of one service has beside: --cascade. A switch always does so."""
    cascade = click.option("--cascade", is_flag=True, help="Also stop what depends on what is stopped.")
    return change_options(cascade(function))
