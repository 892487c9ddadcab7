"""Turns whose holders were killed: `watch` leaves their services as they are to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gpumod.domain.errors import Busy, GpumodError, HalfWay
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import RunStatus
from gpumod.domain.turns import Ticket
from gpumod.engine.debts import is_held, is_owed
from gpumod.engine.observe import observe
from gpumod.engine.turns import over_turns
from gpumod.operations.base import OnProgress, is_interrupted
from gpumod.operations.following_health import OWN
from gpumod.operations.turns_over import TurnsOver
from gpumod.operations.watch_results import Mended, mended_by

GRACE_S = 1.0
"""So long after its command a turn may be over without being left to `watch`: its gpumod is about to end it."""


class WatchingTurns(TurnsOver):
    async def _end_turns(self, snapshot: HostSnapshot, notes: list[str], progress: OnProgress) -> list[Mended]:
        """End what turns have left. A run that fails is told once, then left alone; what keeps it from being made is
        noted, and tried again at the next look."""
        machine, done, tried = self._machine, list[Mended](), set[str]()
        while over := self._left_by_turns(snapshot, tried):  # one that is put away may have needed another
            if not tried:
                await machine.clock.sleep(GRACE_S)
            for service, ticket in over.items():
                why = f"the turn of {ticket.holder} is over, and nobody has put it back"
                try:
                    made = await self._settle(service, f"{OWN}sleep {service}", 0.0, progress)
                except (Busy, HalfWay):
                    return done  # somebody is at work: look again later
                except GpumodError as error:
                    if is_interrupted(error.info):
                        return [*done, Mended(what="sleep", subject=service, why=why, error=error.info)]
                    notes.append(f"{service} stays awake: {error.info.message}")
                    continue
                if made is not None and made.status is RunStatus.REFUSED:
                    notes.append(f"{service} stays awake: {made.error.message if made.error else made.status}")
                elif made is not None and made.status is not RunStatus.NOTHING_TO_DO:
                    done.append(mended_by("sleep", service, why, made))
                    if is_interrupted(made.error):
                        return done
            tried |= {*over}
            snapshot = await observe(machine)
        return done

    def _left_by_turns(self, snapshot: HostSnapshot, tried: Collection[str]) -> Mapping[str, Ticket]:
        """What nobody else settles of what turns have left, by service, but those that were `tried`."""
        machine, sharing = self._machine, self._sharing(snapshot)
        return {
            ticket.service: ticket
            for ticket in over_turns(machine)
            if ticket.service not in tried
            if not (is_owed(machine, ticket, snapshot) and is_held(machine, ticket, snapshot, sharing))
        }
