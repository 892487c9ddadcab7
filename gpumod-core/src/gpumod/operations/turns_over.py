"""The end of a turn: its service is left as it is to be, by whoever had it or, where that was killed, by others."""

from __future__ import annotations

from collections.abc import Callable

from gpumod.domain.errors import Busy, GpumodError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import RunStatus
from gpumod.domain.states import State
from gpumod.domain.turns import Ticket
from gpumod.engine.change import Build, change
from gpumod.engine.debts import forget_all, is_held, is_owed, is_quiet
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.runs import Outcome
from gpumod.engine.turns import end, forget, over_turns
from gpumod.operations.base import OnProgress, change_result, is_interrupted, reporter, unknown
from gpumod.operations.results import ChangeResult
from gpumod.operations.running import Running
from gpumod.operations.use_results import TurnResult
from gpumod.planner.changes import with_needs

LOOK_S = 0.05
"""So often somebody who waits looks whether it is their turn."""
BACK_PATIENCE_S = 30.0
"""So long the end of a turn waits for somebody who changes the machine, before it leaves the service awake."""


class TurnsOver(Running):
    async def _end_turn(self, turn: str, progress: OnProgress, patience_s: float = BACK_PATIENCE_S) -> TurnResult:
        machine, store = self._machine, self._machine.store
        mine = next((ticket for ticket in store.turns() if ticket.id == turn), None)
        if mine is None:
            raise unknown("turn", turn, [ticket.id for ticket in store.turns()], "gpumod status")
        if mine.began_at is None:
            forget(machine, mine)
            return TurnResult()
        end(machine, mine)  # whatever becomes of the service: what is over holds nobody up
        command = f"turn {mine.service}: over"
        back, notes = None, list[str]()
        for service in (mine.service, *sorted(with_needs(store.services(), [mine.service]) - {mine.service})):
            try:
                made = await self._settle(service, command, patience_s, progress)
            except GpumodError as error:  # the turn is over all the same, and what it was for is done
                notes.append(f"{service} stays awake: {error.info.message}")
                break
            back = back or made
            if made is not None and made.exit_code:
                break
        return TurnResult(back=back, notes=tuple(notes))

    async def _settle(self, service: str, command: str, patience_s: float, progress: OnProgress) -> ChangeResult | None:
        """Leave a service as those owe it whose turns with it are over; None where it is so, or others will do it.

        What is owed goes when it is settled, or when a run that was to settle it has failed: that is told once.
        Raises Busy where somebody changes the machine for longer than `patience_s`, and what keeps a run from being
        made; then it is still owed.
        """
        machine, store = self._machine, self._machine.store
        quiet = is_quiet(machine)
        over = self._owed_by(service)  # whoever changes the machine from now on does not count their turns any more
        if not over:
            return None
        snapshot = await observe(machine)
        if quiet and self._as_before(over[0], snapshot) is None:
            forget_all(machine, over)
            return None
        first, sharing = over[0], self._sharing(snapshot)
        settled: tuple[Ticket, ...] = ()

        def build(now: HostSnapshot) -> Wanted:  # somebody may have changed it meanwhile, or begun a turn
            nonlocal over, settled
            over = self._owed_by(service)
            target = self._as_before(over[0], now) if over else None
            settled = over if target is None else ()
            if target is None or is_held(machine, over[0], now, self._sharing(now)):
                target = Target(stop_others=False)
            return Wanted(target, store.services(), turn=over[0].id if over else "")

        def is_others() -> bool:
            return is_held(machine, first, snapshot, sharing)

        outcome = await self._when_free(command, build, is_others, patience_s, progress)
        if outcome is None:
            return None
        failed = outcome.status is RunStatus.ROLLED_BACK and not is_interrupted(outcome.error)
        forget_all(machine, over if failed else settled)
        return change_result(outcome, store.current_mode(), store.current_mode())

    async def _when_free(
        self, command: str, build: Build, is_others: Callable[[], bool], patience_s: float, progress: OnProgress
    ) -> Outcome | None:
        """A change as soon as nobody else changes the machine; None where it has become that of others."""
        clock = self._machine.clock
        give_up = clock.monotonic() + patience_s
        while not is_others():
            try:
                return await change(self._machine, command, build, Options(), reporter(progress))
            except Busy as busy:
                if is_others():
                    return None
                if busy.code != "machine-busy" or clock.monotonic() >= give_up:
                    raise
            await clock.sleep(LOOK_S)
        return None

    def _owed_by(self, service: str) -> tuple[Ticket, ...]:
        """The turns that are over with a service that was not put back. All of them say the same."""
        return tuple(ticket for ticket in over_turns(self._machine) if ticket.service == service)

    def _as_before(self, over: Ticket, snapshot: HostSnapshot) -> Target | None:
        """What is to be done after the last turn with a service, if anything: it is left as it was found, but one of a
        mode's that share one place sleeps."""
        service, state = over.service, snapshot.reading(over.service).state
        if not is_owed(self._machine, over, snapshot):
            return None
        sleeps = over.before is State.SLEEPING or (service in self._sharing(snapshot) and state is not State.FAILED)
        if not sleeps:
            return Target(stop=(service,), stop_others=False)
        if state is State.SLEEPING:
            return None
        asleep = TargetMember(service=service, want=Want.ASLEEP, why="its turn is over")
        return Target(members=(asleep,), stop_others=False)
