"""Turns whose holders were killed: `watch` leaves their services as they are to be."""

from __future__ import annotations

from gpumod.domain.errors import Busy, HalfWay
from gpumod.domain.run import RunStatus
from gpumod.engine.debts import forget_all
from gpumod.engine.turns import over_turns
from gpumod.operations.base import OnProgress, is_interrupted
from gpumod.operations.following_health import OWN
from gpumod.operations.turns_over import TurnsOver
from gpumod.operations.watch_results import Mended, mended_by

GRACE_S = 1.0
"""So long after its command a turn may be over without being left to `watch`: its gpumod is about to end it."""


class WatchingTurns(TurnsOver):
    async def _end_turns(self, notes: list[str], progress: OnProgress) -> list[Mended]:
        """End what turns have left. A run that fails is told once, then what it was for is left alone; what keeps it
        from being made is noted, and tried again at the next look."""
        mended: list[Mended] = []
        for left in await self._settle_all(f"{OWN}sleep {{}}", 0.0, progress, GRACE_S):
            service, made, error = left.ticket.service, left.made, left.why_not
            why = f"the turn of {left.ticket.holder} is over, and nobody has put it back"
            if isinstance(left.error, (Busy, HalfWay)):
                break  # somebody is at work: look again later
            if made is not None and made.status not in (RunStatus.REFUSED, RunStatus.NOTHING_TO_DO):
                mended.append(mended_by("sleep", service, why, made))
                if left.was_in_vain:
                    forget_all(self._machine, [t for t in over_turns(self._machine) if t.service == service])
            elif is_interrupted(error):
                mended.append(Mended(what="sleep", subject=service, why=why, error=error))
            elif error is not None:
                notes.append(f"{service} stays awake: {error.message}")
        return mended
