"""Whether whoever asks may start and stop units of the system's manager. Only polkit knows, and tells by refusing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gpumod.adapters.systemd import states
from gpumod.adapters.systemd.manager import Manager, refused
from gpumod.domain.errors import MachineLacks


async def ask_leave(manager: Manager, units: Sequence[str], hint: str = "") -> None:
    """Raise MachineLacks `not-allowed` where this user may not start and stop `units`.

    Whether polkit would allow it can only be asked by doing: what is down is stopped, without those that need it, and
    what is up is told that it has not failed. Neither changes anything.
    """
    if manager.scope == "user" or os.geteuid() == 0:
        return
    shown = await manager.show(units, states.ASKED)
    up = [name for name in units if states.is_due(shown.get(name, {}))]
    down = [name for name in units if name not in up]
    for words, asked in ((("stop", "--job-mode=ignore-dependencies"), down), (("reset-failed",), up)):
        answer = await manager.call(*words, "--", *asked) if asked else None
        if answer is not None and answer.code:
            error = refused(manager.scope, "cannot be started and stopped", answer, ", ".join(asked), hint)
            if isinstance(error, MachineLacks):
                raise error
