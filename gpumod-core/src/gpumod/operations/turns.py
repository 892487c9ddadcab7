"""Turns: a service of those that share one place on the GPU, awake for somebody while they use it."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

from gpumod.domain.errors import Busy, Failed, GpumodError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.states import State
from gpumod.domain.turns import Ticket, in_the_way
from gpumod.engine.change import change
from gpumod.engine.debts import found
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.turns import around, begin_if_free, draw, in_words, live_with
from gpumod.operations.base import OnProgress, change_result, failure_of, reporter
from gpumod.operations.results import ChangeResult
from gpumod.operations.turns_over import BACK_PATIENCE_S, LOOK_S, TurnsOver
from gpumod.operations.use_results import TurnParams, TurnResult, TurnRow
from gpumod.planner.changes import with_needs

log = logging.getLogger(__name__)

_HAD: ContextVar[tuple[tuple[str, asyncio.Task[Any] | None], ...]] = ContextVar("turns", default=())
"""The turns inside which the code runs, by id, each with the task that has it."""


class Turns(TurnsOver):
    @asynccontextmanager
    async def turn(
        self, service: str, *, what: str = "", wait_s: float | None = None, progress: OnProgress = None
    ) -> AsyncIterator[TurnRow]:
        """`async with g.turn("hyde") as turn:` `hyde` is awake inside, at `turn.port` of 127.0.0.1.

        Raises what waking it raises (DoesNotFit, RolledBack ...), Busy `no-turn` after `wait_s` seconds, and Failed
        `own-turn` where it would wait for a turn that its own task has.
        """
        task = asyncio.current_task()
        own = frozenset(turn for turn, whose in _HAD.get() if whose is task)
        mine, made = await self._begin(TurnParams(service=service, what=what, wait_s=wait_s), progress, own)
        if made is not None and made.exit_code:
            raise failure_of(made)
        _HAD.set((*_HAD.get(), (mine.id, task)))
        try:
            yield self._turn_row(mine)
        finally:
            _HAD.set(tuple(one for one in _HAD.get() if one[0] != mine.id))
            over = await self._leave(mine, progress, BACK_PATIENCE_S)  # also where somebody has given it back
            failed = [over.back.error.message] if over.back is not None and over.back.error is not None else []
            for told in (*failed, *over.notes):
                log.warning("after the turn with %s: %s", service, told)

    async def service_turn(self, params: TurnParams, progress: OnProgress = None) -> TurnResult:
        """Wait for a turn with a service, wake it by a plan, and hold it; or end a turn, and let the service sleep.

        Who shares the place of the service in the current mode is put to sleep by the same plan. What is held is no
        lock but a lease: other changes go on, and keep the service awake. It lasts as long as the process `pid`.
        """
        if params.end is not None:
            return await self._end_turn(params.end, progress)
        mine, made = await self._begin(params, progress)
        if made is not None and made.exit_code:
            return TurnResult(change=made)
        row = self._turn_row(mine)
        env = {"GPUMOD_URL": f"http://127.0.0.1:{row.port}"} if row.port else {}
        return TurnResult(turn=row, change=made, env=env)

    async def _begin(
        self, params: TurnParams, progress: OnProgress, own: frozenset[str] = frozenset()
    ) -> tuple[Ticket, ChangeResult | None]:
        """A turn that has begun, and what was done for it. Where that failed the turn is over. `own` are the turns (by
        id) that whoever asks has already."""
        self._machine.store.check_writable()
        name = self._service(params.service or "").id
        until = None if params.wait_s is None else self._machine.clock.monotonic() + params.wait_s
        mine = draw(self._machine, self._ticket(name, params))
        try:
            begun = await self._my_turn(mine, until, progress, own)
            made = await self._wake_for(begun, until, params, progress)
        except BaseException:
            await self._give_up(mine, progress)
            raise
        if made is not None and made.exit_code:
            await self._give_up(mine, progress)
        return begun, made

    async def _give_up(self, mine: Ticket, progress: OnProgress) -> None:
        """End a turn that did not come about, or only in part. What cannot be put back now stays owed."""
        with suppress(GpumodError):
            await self._leave(mine, progress, patience_s=0.0)

    def _turn_row(self, mine: Ticket) -> TurnRow:
        machine, store = self._machine, self._machine.store
        services, handles = store.services(), store.handles()
        up = handles[mine.service].launched if mine.service in handles else self._service(mine.service)
        port = machine.port(up, services, handles)
        waited_s = round(machine.clock.now() - mine.asked_at, 3)
        return TurnRow(id=mine.id, service=mine.service, port=port, holder=mine.holder, waited_s=waited_s)

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

    async def _my_turn(self, mine: Ticket, until: float | None, progress: OnProgress, own: frozenset[str]) -> Ticket:
        """Wait until nobody is in the way; the turn has begun then.

        Raises Busy `no-turn`, Failed `own-turn`, and Failed `turn-lost` where whoever waits has ended.
        """
        machine, told, above = self._machine, "", around(self._machine, mine.pid)
        mode, places = self._mode_now(), self._places(await observe(machine))
        while True:
            if self._mode_now() != mode:  # another mode, another place
                mode, places = self._mode_now(), self._places(await observe(machine))
            ahead = in_the_way(mine, live_with(machine, mine), places, own | above)
            _refuse_own(mine, ahead, own)
            if not ahead:
                places = self._places(await observe(machine))
                begun = begin_if_free(machine, mine, places, own | above)
                if begun.began_at is not None:
                    return begun
            else:
                self._refuse_late(mine, until, in_words(ahead[0]))
                if in_words(ahead[0]) != told:
                    told = in_words(ahead[0])
                    more = f", and {len(ahead) - 1} more before this" if len(ahead) > 1 else ""
                    if above & {ticket.id for ticket in ahead}:
                        more += "; this was started inside that turn, and waits for it to end"
                    reporter(progress)(Progress(kind=ProgressKind.WAITING, run_id="", text=f"{told}{more}"))
            await machine.clock.sleep(LOOK_S)

    def _mode_now(self) -> tuple[str | None, str | None]:
        return self._machine.store.current_mode(), self._machine.store.current_alternative()

    def _refuse_late(self, mine: Ticket, until: float | None, why: str) -> None:
        """Raise Busy `no-turn` where the time is over that somebody waits for a turn."""
        if until is not None and self._machine.clock.monotonic() >= until:
            raise Busy(
                "no-turn",
                f"no turn with {mine.service} came in time",
                why=why,
                hint="wait longer (--wait); `gpumod status` shows who is in the queue, and who changes the machine",
            )

    async def _wake_for(
        self, mine: Ticket, until: float | None, params: TurnParams, progress: OnProgress
    ) -> ChangeResult | None:
        """Have the service awake, alone in its place; None where it was so. Whoever changes the machine just now is
        waited for: from here on every plan keeps the service."""
        machine, store, told = self._machine, self._machine.store, False
        options = Options(timeout_s=params.timeout_s)

        def build(snapshot: HostSnapshot) -> Wanted:
            live_with(machine, mine)  # as long as it waited: nobody is woken for who has ended
            found(machine, mine, snapshot, self._current_target(snapshot))
            member = TargetMember(service=mine.service, why=f"it is the turn of {mine.holder}")
            members = (member, *self._make_way(mine.service, snapshot))
            return Wanted(Target(members=members, stop_others=False), store.services(), turn=mine.id)

        while True:
            if machine.local.holder(machine.probe.machine_dir()) is None:
                quiet, snapshot = store.open_run() is None, await observe(machine)
                if self._is_awake(mine.service, snapshot):
                    if quiet:
                        found(machine, mine, snapshot, self._current_target(snapshot))
                    return None
            try:
                outcome = await change(machine, f"turn {mine.service}", build, options, reporter(progress))
                return _said(change_result(outcome, store.current_mode(), store.current_mode()))
            except Busy as busy:
                if busy.code != "machine-busy":
                    raise
                self._refuse_late(mine, until, busy.info.message)
                if not told:
                    reporter(progress)(Progress(kind=ProgressKind.WAITING, run_id="", text=busy.info.message))
                told = True
                await machine.clock.sleep(LOOK_S)

    def _is_awake(self, service: str, snapshot: HostSnapshot) -> bool:
        """True where a service runs, and all that it needs, and nobody has to make way for it."""
        used = {service, *with_needs(self._machine.store.services(), [service])}
        runs = all(snapshot.reading(one).state is State.RUNNING for one in used)
        return runs and not self._make_way(service, snapshot)


def _said(made: ChangeResult) -> ChangeResult:
    """What does not fit has no other way here: a turn is with that one service, and cannot be forced."""
    if made.error is None or made.error.code != "does-not-fit":
        return made
    hint = "stop something first (`gpumod ps` shows what holds the memory), or switch to a mode that has it"
    error = made.error.model_copy(update={"hint": hint, "details": {**made.error.details, "alternatives": []}})
    plan = made.plan and made.plan.model_copy(update={"alternatives": ()})
    return made.model_copy(update={"error": error, "plan": plan})


def _refuse_own(mine: Ticket, ahead: Collection[Ticket], own: Collection[str]) -> None:
    """Raise where `mine` waits for one of those that the same task has: that would be for ever."""
    for ticket in ahead:
        if ticket.id in own:
            raise Failed(
                "own-turn",
                f"a turn with {mine.service} would wait for itself",
                why=f"whoever asks for it has a turn with {ticket.service}, which shares its place",
                hint="end that turn first: one after the other",
            )
