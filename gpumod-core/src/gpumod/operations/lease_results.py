"""What comes out of making room and of putting back."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.base import Frozen
from gpumod.operations.results import ChangeResult, LeaseRow


class FreeResult(Frozen):
    """What making room did (`change`), and putting back (`back`); `lease` is what is held now.

    `env` is what a command needs to use just this GPU, `command_exit` how it ended. `next` says how to put back.
    """

    lease: LeaseRow | None = None
    change: ChangeResult | None = None
    back: ChangeResult | None = None
    env: Mapping[str, str] = {}
    command_exit: int | None = None
    notes: tuple[str, ...] = ()
    next: str = ""
