"""Turns: a service of those that share one place on the GPU, awake for somebody while they use it."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from gpumod.domain.errors import Busy, Failed, GpumodError
from gpumod.domain.idling import member_of
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.states import GONE, State
from gpumod.domain.turns import Ticket, in_the_way, is_awaited
from gpumod.engine.change import change
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.turns import begin_if_free, draw, end, in_words, live_turns
from gpumod.operations.base import OnProgress, change_result, failure_of, reporter, unknown
from gpumod.operations.results import ChangeResult
from gpumod.operations.running import Running
from gpumod.operations.use_results import TurnParams, TurnResult, TurnRow

LOOK_S = 0.05
"""So often somebody who waits looks whether it is their turn."""
BACK_PATIENCE_S = 30.0
"""So long the end of a turn waits for somebody who changes the machine, before it leaves the service awake."""


class Turns(Running):
    @asynccontextmanager
    async def turn(
        self, service: str, *, what: str = "", wait_s: float | None = None, progress: OnProgress = None
    ) -> AsyncIterator[TurnRow]:
        """`async with g.turn("hyde") as turn:` `hyde` is awake inside, at `turn.port` of 127.0.0.1.

        Raises what waking it raises (DoesNotFit, RolledBack ...), and Busy `no-turn` after `wait_s` seconds.
        """
        params = TurnParams(service=service, pid=os.getpid(), what=what, wait_s=wait_s)
        begun = await self.service_turn(params, progress)
        if begun.turn is None:
            raise failure_of(begun.change) if begun.change else Failed("no-turn", f"no turn with {service}")
        try:
            yield begun.turn
        finally:
            await self.service_turn(TurnParams(end=begun.turn.id), progress)

    async def service_turn(self, params: TurnParams, progress: OnProgress = None) -> TurnResult:
        """Wait for a turn with a service, wake it by a plan, and hold it; or end a turn, and let the service sleep.

        Who shares the place of the service in the current mode is put to sleep by the same plan. What is held is no
        lock but a lease: other changes go on, and keep the service awake. It lasts as long as the process `pid`.
        """
        if params.end is not None:
            return await self._end_turn(params.end, progress)
        store, clock = self._machine.store, self._machine.clock
        store.check_writable()
        name = self._service(params.service or "").id
        mine = draw(self._machine, self._ticket(name, params))
        begun = mine
        try:
            begun = await self._my_turn(mine, params.wait_s, progress)
            made = await self._wake_for(begun, params, progress)
        except BaseException:
            end(self._machine, begun)
            raise
        if made is not None and made.exit_code:
            end(self._machine, begun)
            return TurnResult(change=made)
        service = self._service(name)
        port = self._machine.port(service, store.services(), store.handles())
        waited_s = round(clock.now() - mine.asked_at, 3)
        row = TurnRow(id=mine.id, service=name, port=port, holder=mine.holder, waited_s=waited_s)
        env = {"GPUMOD_URL": f"http://127.0.0.1:{port}"} if port else {}
        return TurnResult(turn=row, change=made, env=env)

    def _ticket(self, service: str, params: TurnParams) -> Ticket:
        pid = params.pid or os.getpid()
        what = f": {params.what}" if params.what else ""
        return Ticket(
            id=uuid.uuid4().hex[:12],
            service=service,
            holder=f"{self._machine.local.user()}{what} (pid {pid})",
            pid=pid,
            identity=self._machine.local.identity(pid) or "",
            asked_at=self._machine.clock.now(),
        )

    async def _my_turn(self, mine: Ticket, wait_s: float | None, progress: OnProgress) -> Ticket:
        """Wait until nobody is in the way; the turn has begun then. Raises Busy `no-turn`."""
        clock, told = self._machine.clock, ""
        give_up = None if wait_s is None else clock.monotonic() + wait_s
        snapshot = await observe(self._machine)
        sharing = self._sharing(snapshot)
        while True:
            ahead = in_the_way(mine, live_turns(self._machine), sharing)
            if not ahead:
                snapshot = await observe(self._machine)
                sharing = self._sharing(snapshot)
                begun = begin_if_free(self._machine, mine, sharing, snapshot.reading(mine.service).state)
                if begun.began_at is not None:
                    return begun
            elif give_up is not None and clock.monotonic() >= give_up:
                raise Busy(
                    "no-turn",
                    f"no turn with {mine.service} came in {wait_s:g} s",
                    why=in_words(ahead[0]),
                    hint="wait longer (--wait); `gpumod status` shows who is in the queue",
                )
            elif in_words(ahead[0]) != told:
                told = in_words(ahead[0])
                more = f", and {len(ahead) - 1} more before this" if len(ahead) > 1 else ""
                reporter(progress)(Progress(kind=ProgressKind.WAITING, run_id="", text=f"{told}{more}"))
            await clock.sleep(LOOK_S)

    async def _wake_for(self, mine: Ticket, params: TurnParams, progress: OnProgress) -> ChangeResult | None:
        """Have the service awake; None where it was. Whoever changes the machine just now is waited for: from here on
        every plan keeps the service."""
        machine, store, told = self._machine, self._machine.store, False
        services = store.services()
        options = Options(timeout_s=params.timeout_s)

        def build(snapshot: HostSnapshot) -> Wanted:
            member = TargetMember(service=mine.service, why=f"it is the turn of {mine.holder}")
            members = (member, *self._turn(mine.service, snapshot))
            return Wanted(Target(members=members, stop_others=False), services)

        while True:
            try:
                if machine.local.holder(machine.probe.machine_dir()) is None:
                    snapshot = await observe(machine)
                    if snapshot.reading(mine.service).state is State.RUNNING:
                        return None
                outcome = await change(machine, f"turn {mine.service}", build, options, reporter(progress))
                return change_result(outcome, store.current_mode(), store.current_mode())
            except Busy as busy:
                if not told:
                    reporter(progress)(Progress(kind=ProgressKind.WAITING, run_id="", text=busy.info.message))
                told = True
                await machine.clock.sleep(LOOK_S)

    # --- the end of a turn ------------------------------------------------------------------------------------------

    async def _end_turn(self, turn: str, progress: OnProgress) -> TurnResult:
        machine, store = self._machine, self._machine.store
        mine = next((ticket for ticket in store.turns() if ticket.id == turn), None)
        if mine is None:
            raise unknown("turn", turn, [ticket.id for ticket in store.turns()], "gpumod status")
        try:
            snapshot = await observe(machine)
        except BaseException as error:  # whatever becomes of the service: what is over holds nobody up
            end(machine, mine)
            if not isinstance(error, GpumodError):
                raise
            return _stays_awake(mine, error)
        sharing = self._sharing(snapshot)
        with store.together():
            end(machine, mine)
            awaited = is_awaited(mine, live_turns(machine), sharing)
        if awaited or self._as_before(mine, snapshot) is None:
            return TurnResult()
        return await self._after_turn(mine, sharing, progress)

    async def _after_turn(self, mine: Ticket, sharing: Collection[str], progress: OnProgress) -> TurnResult:
        """Leave the service as it is to be, unless somebody waits for it."""
        machine, store = self._machine, self._machine.store

        def build(now: HostSnapshot) -> Wanted:  # somebody may have switched meanwhile
            return Wanted(self._as_before(mine, now) or Target(stop_others=False), store.services())

        give_up = machine.clock.monotonic() + BACK_PATIENCE_S
        while True:
            try:
                outcome = await change(machine, f"turn {mine.service}: over", build, Options(), reporter(progress))
                return TurnResult(back=change_result(outcome, store.current_mode(), store.current_mode()))
            except Busy as busy:
                if is_awaited(mine, live_turns(machine), sharing):
                    return TurnResult()
                if machine.clock.monotonic() >= give_up:
                    return _stays_awake(mine, busy)
                await machine.clock.sleep(LOOK_S)
            except GpumodError as error:  # the turn is over all the same, and what it was for is done
                return _stays_awake(mine, error)

    def _as_before(self, ticket: Ticket, snapshot: HostSnapshot) -> Target | None:
        """What is to be after the last turn with a service: as it was found, but one of a mode's that share sleeps.

        What the mode wants awake stays so: it was not up before, or the mode was entered since. What was
        stopped meanwhile stays stopped.
        """
        service, store = ticket.service, self._machine.store
        if ticket.before not in {State.SLEEPING, *GONE} or snapshot.reading(service).state is State.STOPPED:
            return None
        member = member_of(store.modes().get(store.current_mode() or ""), service)
        if member is not None and member.want is Want.AWAKE:
            entered = next((event.at for event in store.events_of("mode-changed", 1)), 0.0)
            if ticket.before is not State.SLEEPING or entered >= (ticket.began_at or 0.0):
                return None
        if ticket.before is State.SLEEPING or service in self._sharing(snapshot):
            asleep = TargetMember(service=service, want=Want.ASLEEP, why="its turn is over")
            return Target(members=(asleep,), stop_others=False)
        return Target(stop=(service,), stop_others=False)


def _stays_awake(ticket: Ticket, error: GpumodError) -> TurnResult:
    return TurnResult(notes=(f"{ticket.service} stays awake: {error.info.message}",))
