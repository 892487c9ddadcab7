"""The end of a turn: its service is left as it is to be, by whoever had it or, where that was killed, by others."""

from __future__ import annotations

from gpumod.domain.errors import Busy, GpumodError
from gpumod.domain.idling import member_of
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.states import GONE, State
from gpumod.domain.turns import Ticket, is_awaited
from gpumod.engine.change import change
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.turns import end, forget, forget_over, live_turns
from gpumod.operations.base import OnProgress, change_result, reporter, unknown
from gpumod.operations.results import ChangeResult
from gpumod.operations.running import Running
from gpumod.operations.use_results import TurnResult
from gpumod.planner.changes import with_needs

LOOK_S = 0.05
"""So often somebody who waits looks whether it is their turn."""
BACK_PATIENCE_S = 30.0
"""So long the end of a turn waits for somebody who changes the machine, before it leaves the service awake."""


class TurnsOver(Running):
    async def _end_turn(self, turn: str, progress: OnProgress) -> TurnResult:
        machine, store = self._machine, self._machine.store
        mine = next((ticket for ticket in store.turns() if ticket.id == turn), None)
        if mine is None:
            raise unknown("turn", turn, [ticket.id for ticket in store.turns()], "gpumod status")
        if mine.began_at is None:
            forget(machine, mine)
            return TurnResult()
        try:
            snapshot = await observe(machine)
        except BaseException as error:  # whatever becomes of the service: what is over holds nobody up
            end(machine, mine)
            if not isinstance(error, GpumodError):
                raise
            return _stays_awake(mine, error)
        end(machine, mine)
        try:
            command = f"turn {mine.service}: over"
            return TurnResult(back=await self._turn_over(mine, snapshot, command, BACK_PATIENCE_S, progress))
        except GpumodError as error:  # the turn is over all the same, and what it was for is done
            return _stays_awake(mine, error)

    async def _turn_over(
        self, over: Ticket, snapshot: HostSnapshot, command: str, patience_s: float, progress: OnProgress
    ) -> ChangeResult | None:
        """Leave the service of a turn that is over as it is to be; None where it is, or somebody waits for it.

        Raises Busy where somebody changes the machine for longer than `patience_s`.
        """
        machine, store = self._machine, self._machine.store
        sharing = self._sharing(snapshot)
        if is_awaited(over, live_turns(machine), sharing):
            return None
        if self._as_before(over, snapshot) is None:
            forget_over(machine, {over.service})
            return None

        def build(now: HostSnapshot) -> Wanted:  # somebody may have switched meanwhile
            return Wanted(self._as_before(over, now) or Target(stop_others=False), store.services(), turn=over.id)

        give_up = machine.clock.monotonic() + patience_s
        while True:
            try:
                outcome = await change(machine, command, build, Options(), reporter(progress))
            except Busy as busy:
                if is_awaited(over, live_turns(machine), sharing):
                    return None
                if busy.code != "machine-busy" or machine.clock.monotonic() >= give_up:
                    raise
                await machine.clock.sleep(LOOK_S)
            else:
                forget_over(machine, {over.service})  # also where that was not to be had: it is told once
                return change_result(outcome, store.current_mode(), store.current_mode())

    def _as_before(self, over: Ticket, snapshot: HostSnapshot) -> Target | None:
        """What is to be after the last turn with a service: as it was found, but one of a mode's that share sleeps.

        A mode that was entered since decides: but for the turn the switch would have done so itself. What the mode
        wants awake and was not up before stays so, and what was stopped meanwhile stays stopped.
        """
        service, store = over.service, self._machine.store
        if snapshot.reading(service).state is State.STOPPED:
            return None
        mode = store.modes().get(store.current_mode() or "")
        member = member_of(mode, service)
        entered = next((event.at for event in store.events_of("mode-changed", 1)), 0.0)
        stop = Target(stop=(service,), stop_others=False)
        asleep = TargetMember(service=service, want=Want.ASLEEP, why="its turn is over")
        sleep = Target(members=(asleep,), stop_others=False)
        if mode is not None and entered >= (over.began_at or 0.0):
            if member is not None:
                return None if member.want is Want.AWAKE else sleep
            if service in with_needs(store.services(), [*mode.services]):
                return None
            if not self._is_left_alone(service, snapshot):
                return stop
        if over.before not in {State.SLEEPING, *GONE}:
            return None
        if member is not None and member.want is Want.AWAKE and over.before is not State.SLEEPING:
            return None
        return sleep if over.before is State.SLEEPING or service in self._sharing(snapshot) else stop

    def _is_left_alone(self, service: str, snapshot: HostSnapshot) -> bool:
        """True for what a switch leaves as it is: what is pinned or adopted."""
        defined = self._machine.store.services().get(service)
        return (defined is not None and defined.pinned) or snapshot.reading(service).adopted


def _stays_awake(ticket: Ticket, error: GpumodError) -> TurnResult:
    return TurnResult(notes=(f"{ticket.service} stays awake: {error.info.message}",))
