"""Turns whose holders were killed: `watch` leaves their services as they are to be."""

from __future__ import annotations

from gpumod.domain.errors import Busy, GpumodError, HalfWay
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import RunStatus
from gpumod.engine.turns import forget_over, over_turns
from gpumod.operations.base import OnProgress
from gpumod.operations.following_health import OWN
from gpumod.operations.turns_over import TurnsOver
from gpumod.operations.watch_results import Mended, mended_by

GRACE_S = 1.0
"""So long after its command a turn may be over without being left to `watch`: its gpumod is about to end it."""


class WatchingTurns(TurnsOver):
    async def _end_turns(self, snapshot: HostSnapshot, progress: OnProgress) -> list[Mended]:
        """End what turns have left; what cannot be done is told once, then left alone."""
        done: list[Mended] = []
        if over_turns(self._machine):
            await self._machine.clock.sleep(GRACE_S)
        for over in over_turns(self._machine):
            why = f"the turn of {over.holder} is over, and nobody has put it back"
            try:
                made = await self._turn_over(over, snapshot, f"{OWN}sleep {over.service}", 0.0, progress)
            except (Busy, HalfWay):
                continue  # somebody is at work: look again later
            except GpumodError as error:
                forget_over(self._machine, {over.service})
                done.append(Mended(what="sleep", subject=over.service, why=why, error=error.info))
                continue
            if made is not None and made.status is not RunStatus.NOTHING_TO_DO:
                done.append(mended_by("sleep", over.service, why, made))
        return done
