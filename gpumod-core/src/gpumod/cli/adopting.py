"""`gpumod service adopt` and `gpumod service release`."""

from __future__ import annotations

from typing import Any

import click

from gpumod.cli.complete import SERVICES
from gpumod.cli.context import CliContext
from gpumod.cli.lazy import command


@command("adopt", "service_adopt")
@click.argument("what", metavar="UNIT|CONTAINER|PID")
@click.option(
    "--id", "id", metavar="ID", help="Its name here (default: made of the unit's, the container's or the program's)."
)
@click.option("--manager", type=click.Choice(["user", "system"]), help="Whose unit, where both have one of this name.")
@click.option("--container", is_flag=True, help="It is a container, where a unit has its name, or it is a number.")
@click.option("--driver", metavar="NAME", help="The runtime, where it is not recognised.")
@click.option("--port", type=int, metavar="PORT", help="Where it serves, where it does not say.")
@click.option("--vram-mb", type=int, metavar="MB", help="What it takes (default: what it holds now).")
@click.pass_obj
def adopt(context: CliContext, /, **values: Any) -> None:
    """Manage a systemd unit, a container, or a process, that somebody else set up.

    Nothing of it is written, enabled or removed, now or later. It is watched, its memory counts, and it can be started
    (a unit, a container), stopped, and named by modes; a switch to a mode that does not name it leaves it up.
    """
    context.call("service_adopt", values)


@command("release", "service_release")
@click.argument("service", shell_complete=SERVICES)
@click.option("--cascade", is_flag=True, help="Take it out of the modes that name it.")
@click.pass_obj
def release(context: CliContext, /, **values: Any) -> None:
    """Forget SERVICE, which was adopted. What runs goes on untouched."""
    context.call("service_release", values)
