"""The end of a turn: what turns have brought up is left as it is to be, by whoever ends one, or by `watch`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from gpumod.domain.errors import Busy, ErrorInfo, GpumodError, HalfWay
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target
from gpumod.domain.run import RunStatus
from gpumod.domain.turns import Ticket
from gpumod.engine.change import change
from gpumod.engine.debts import as_owed, forget_all, is_held, is_quiet
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.turns import end, over_turns
from gpumod.operations.base import OnProgress, change_result, is_interrupted, reporter, unknown
from gpumod.operations.results import ChangeResult
from gpumod.operations.running import Running
from gpumod.operations.use_results import TurnResult
from gpumod.planner.changes import with_needs

LOOK_S = 0.05
"""So often somebody who waits looks whether it is their turn."""
BACK_PATIENCE_S = 30.0
"""So long the end of a turn waits for somebody who changes the machine, before it leaves the service awake."""


@dataclass(frozen=True)
class Left:
    """How it went to leave the service of `ticket` as it is to be: `error` is what kept a run from being made, and
    `made` is None where others do it."""

    ticket: Ticket
    made: ChangeResult | None = None
    error: GpumodError | None = None

    @property
    def why_not(self) -> ErrorInfo | None:
        """Why it is not so, where nobody else does it."""
        return self.error.info if self.error else self.made.error if self.made else None

    @property
    def was_in_vain(self) -> bool:
        """True where it was tried and gone back from, by nobody's wish."""
        return self.made is not None and self.made.status is RunStatus.ROLLED_BACK and not is_interrupted(self.why_not)

    @property
    def is_the_end(self) -> bool:
        """True where nothing more is to be tried: somebody is at work, or a signal came."""
        return isinstance(self.error, (Busy, HalfWay)) or is_interrupted(self.why_not)


class TurnsOver(Running):
    async def _end_turn(self, turn: str, progress: OnProgress) -> TurnResult:
        tickets = self._machine.store.turns()
        mine = next((ticket for ticket in tickets if ticket.id == turn), None)
        if mine is None:
            raise unknown("turn", turn, [ticket.id for ticket in tickets], "gpumod status")
        return await self._leave(mine, progress, BACK_PATIENCE_S)

    async def _leave(self, mine: Ticket, progress: OnProgress, patience_s: float) -> TurnResult:
        """End a turn, or the waiting for it, and put back what nobody else does.

        What others have left and could not put back either is tried once more, then that is told and forgotten.
        """
        end(self._machine, mine.id)  # whatever becomes of the service: what is over holds nobody up
        own = with_needs(self._machine.store.services(), [mine.service])
        back, notes = None, list[str]()
        try:
            done = await self._settle_all("turn {}: over", patience_s, progress, first=own)
        except GpumodError as error:
            done = [Left(mine, error=error)]
        for left in done:
            if left.made is not None and left.ticket.service == mine.service:
                back = left.made
            elif left.why_not is not None:  # the turn is over all the same, and what it was for is done
                notes.append(f"{left.ticket.service} stays awake: {left.why_not.message}")
            if left.was_in_vain and left.ticket.service not in own:
                forget_all(self._machine, [t for t in over_turns(self._machine) if t.service == left.ticket.service])
        return TurnResult(back=back, notes=tuple(notes))

    async def _settle_all(
        self,
        command: str,
        patience_s: float,
        progress: OnProgress,
        grace_s: float = 0.0,
        first: Collection[str] = (),
    ) -> Sequence[Left]:
        """Leave as it is owed all that turns have brought up and that nobody else puts back, one after the other: what
        is put away may have needed another. What is in `first` comes first. `command` is that of each run, `{}` the
        service.

        It begins `grace_s` after something is seen to be due, waits `patience_s` for who changes the machine, and ends
        where that was in vain, or a signal comes.
        """
        machine, done = self._machine, list[Left]()
        give_up = machine.clock.monotonic() + patience_s
        while not (done and done[-1].is_the_end):
            quiet, tried = is_quiet(machine), {left.ticket.service for left in done}
            over = [ticket for ticket in over_turns(machine) if ticket.service not in tried]
            over.sort(key=lambda ticket: ticket.service not in first)
            if not over:  # whoever changes the machine from now on does not count these turns any more
                break
            snapshot = await observe(machine)
            owed = [ticket for ticket in over if as_owed(ticket, snapshot) is not None]
            if quiet:
                forget_all(machine, [ticket for ticket in over if ticket not in owed])
                over = owed
            places = self._places(snapshot)
            due = next((t for t in over if t not in owed or not is_held(machine, t, snapshot, places)), None)
            if due is None:
                break
            if grace_s and not done:
                await machine.clock.sleep(grace_s)
                grace_s = 0.0
                continue
            is_others = partial(is_held, machine, due, snapshot, places)
            done.append(await self._settle_one(due, command.format(due.service), is_others, give_up, progress))
        return done

    async def _settle_one(
        self, due: Ticket, command: str, is_others: Callable[[], bool], give_up: float, progress: OnProgress
    ) -> Left:
        """Leave one service as it is owed, as soon as nobody else changes the machine, unless it becomes that of
        others. What is owed goes when it is settled."""
        machine, store = self._machine, self._machine.store
        settled: tuple[Ticket, ...] = ()

        def build(now: HostSnapshot) -> Wanted:  # somebody may have changed it meanwhile, or begun a turn
            nonlocal settled
            over = tuple(ticket for ticket in over_turns(machine) if ticket.service == due.service)
            target = as_owed(over[0], now) if over else None
            settled = over if target is None else ()
            if target is None or is_held(machine, over[0], now, self._places(now)):
                target = Target(stop_others=False)
            return Wanted(target, store.services(), turn=due.id)

        while not is_others():
            try:
                outcome = await change(machine, command, build, Options(), reporter(progress))
            except GpumodError as error:
                if error.code != "machine-busy" or machine.clock.monotonic() >= give_up:
                    return Left(due, error=error)
                await machine.clock.sleep(LOOK_S)
            else:
                forget_all(machine, settled)
                return Left(due, change_result(outcome, store.current_mode(), store.current_mode()))
        return Left(due)
