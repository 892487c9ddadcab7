"""Reading a command line that somebody else wrote: which runtime it starts, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from gpumod.domain.base import Frozen


class CommandLine(Frozen):
    """A command line, its variables as far as they are known, and the folder that it is run in ("": not known)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    cwd: str = ""


class Told(Frozen):
    """Fields of a service (its options in `unit_vars`) that give this command line again, but for what `notes` tell.

    `sure` is False where it may be any HTTP service: a driver that knows the runtime is then believed rather.
    `binds` is the address that it listens on, said or the runtime's own; empty where that is not known.
    """

    fields: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    sure: bool = True
    binds: str = ""


@runtime_checkable
class ReadsCommands(Protocol):
    """A driver that recognises its runtime's command lines, the inverse of `launch`. Pure; None: not its own."""

    def read_command(self, command: CommandLine) -> Told | None: ...
