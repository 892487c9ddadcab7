"""free: room on a GPU for somebody, and everything back afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from gpumod.domain.errors import Busy, DoesNotFit, ErrorInfo
from gpumod.domain.holding import Holding
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import RunStatus
from gpumod.domain.service import Service
from gpumod.engine.change import Build, change
from gpumod.engine.leases import beside_leases_mb, holds, in_words, over, standing
from gpumod.engine.machine import Machine
from gpumod.engine.memory import wait_settled
from gpumod.engine.observe import observe, observe_twice
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.engine.room import Debt, debt_of, find_room, is_there, lost, mode_run, put_away, way_back
from gpumod.engine.runs import Outcome
from gpumod.operations.base import Base, OnProgress, change_result, reporter
from gpumod.operations.lease_results import FreeResult
from gpumod.operations.leases import BACK, lease_row
from gpumod.operations.params import FreeParams
from gpumod.operations.results import ChangeResult
from gpumod.operations.switching import dry

PATIENCE_S = 600.0
"""So long putting back waits for somebody who changes the machine."""


class Freeing(Base):
    async def free(self, params: FreeParams, progress: OnProgress = None) -> FreeResult:
        """Make room by a plan and hold it as a lease; or end leases and put back, by a plan, what was put away.

        A lease is stored with the run, before its first step, and counts until its process ends, its time is over, or
        it is given back. One whose run is rolled back is gone.
        """
        options = Options(force=params.force, rollback=not params.no_rollback, cascade=True, timeout_s=params.timeout_s)
        if params.back:
            return await self._back(params, options, progress)
        mb = params.mb or 0
        if params.dry_run:
            snapshot = await observe_twice(self._machine)
            room = find_room(self._machine, snapshot, mb, params.gpu, options)
            planned = plan_for(self._machine, snapshot, Wanted(room.target, self._machine.store.services()), options)
            return FreeResult(change=dry(planned, None, options))
        return await self._make(params, mb, options, progress)

    async def _make(self, params: FreeParams, mb: int, options: Options, progress: OnProgress) -> FreeResult:
        machine, store = self._machine, self._machine.store
        made: list[Holding] = []

        def build(snapshot: HostSnapshot) -> Wanted:
            room = find_room(machine, snapshot, mb, params.gpu, options)
            before, definitions = put_away(machine, snapshot, room)
            now, pid = machine.clock.now(), params.pid
            what = f": {params.what}" if params.what else ""
            holding = Holding(
                id=uuid.uuid4().hex[:12],
                holder=f"{machine.local.user()}{what}{f' (pid {pid})' if pid else ''}",
                gpu=room.gpu,
                vram_mb=mb,
                since=now,
                until=None if params.for_s is None else now + params.for_s,
                pid=pid,
                identity=machine.local.identity(pid) or "",
                mode_run=run.id if (run := mode_run(machine)) else "",
                before=before,
                definitions=definitions,
            )
            holding = holding.model_copy(update={"foreign_mb": beside_leases_mb(machine, snapshot, holding)})
            made[:] = [holding]  # it is asked again where something has just died
            return Wanted(room.target, store.services(), holding)

        try:
            outcome = await change(machine, f"free {mb}", build, options, reporter(progress))
        except DoesNotFit:
            await wait_settled(machine)  # something may just have died: its memory is as good as free
            outcome = await change(machine, f"free {mb}", build, options, reporter(progress))
        result = change_result(outcome, store.current_mode(), store.current_mode())
        if outcome.exit_code:
            return FreeResult(change=result)
        holding = made[0]
        if not options.force and not await is_there(machine, mb, holding.gpu):
            return await self._not_there(holding, result, options, progress)
        row = lease_row(machine, holding, await observe(machine))
        env = dict(machine.probe.child_env([holding.gpu]))
        return FreeResult(lease=row, change=result, env=env, next=BACK if params.pid is None else "")

    async def _not_there(
        self, holding: Holding, made: ChangeResult, options: Options, progress: OnProgress
    ) -> FreeResult:
        """The plan was reached, and the device has less all the same: put back, and say so."""
        snapshot = await observe(self._machine)
        gpu = snapshot.gpu(holding.gpu)
        unnamed = snapshot.unattributed_mb(holding.gpu)
        back = await self._put_back([holding], options, progress)
        whole = back.back is None or back.back.status in (RunStatus.DONE, RunStatus.NOTHING_TO_DO)
        error = ErrorInfo(
            code="room-not-there",
            message=f"GPU {holding.gpu} has {gpu.free_mb} of {holding.vram_mb} MiB free, though the room was made",
            why=f"{unnamed} MiB belong to no process" if unnamed else "something took them meanwhile",
            hint="see `gpumod ps`; what was put away is " + ("back" if whole else f"not back: {BACK}"),
        )
        changed = made.model_copy(update={"error": error, "status": RunStatus.ROLLED_BACK, "exit_code": 6})
        return FreeResult(change=changed, back=back.back, notes=back.notes, next=back.next)

    # --- putting back -----------------------------------------------------------------------------------------------

    async def _back(self, params: FreeParams, options: Options, progress: OnProgress) -> FreeResult:
        rows = self._machine.store.holdings()
        ending = [h for h in rows if h.id == params.lease or (params.lease is None and (h.pid is None or params.force))]
        others = [h for h in standing(self._machine) if h not in ending]
        if params.lease is None and others and not ending and not over(self._machine):
            raise Busy(
                "lease-in-use",
                in_words(others[0]),
                why=f"it lasts as long as its process (pid {others[0].pid})",
                hint="end that, or --force, which puts back while it goes on",
            )
        if not params.dry_run:
            return await self._put_back(ending, options, progress)
        due = (*ending, *(h for h in over(self._machine) if h not in ending))
        snapshot = await observe_twice(self._machine)
        debt, defined = debt_of(self._machine, due), self._machine.store.services()
        wanted = way_back(debt, snapshot, defined)
        # its own lease is over then, so it does not count here
        counts = not ending and not params.force
        planned = plan_for(self._machine, snapshot, wanted, Options(cascade=True, leases=counts))
        back = dry(planned, self._machine.store.current_mode(), options)
        return FreeResult(back=back, notes=_told(debt, defined))

    async def _put_back(self, ending: Sequence[Holding], options: Options, progress: OnProgress) -> FreeResult:
        """End leases, and put back what was put away for all that are over, by one plan."""
        machine, store = self._machine, self._machine.store
        names = {holding.id for holding in ending}

        def due() -> tuple[Holding, ...]:
            return tuple(h for h in store.holdings() if h.id in names or not holds(machine, h))

        for holding in due():
            if holds(machine, holding):
                ended = holding.model_copy(update={"until": machine.clock.now()})
                store.put_holding(ended, event=self._event("lease-ended", holding.id))
        if not due():
            return FreeResult(notes=("nothing is to be put back",))
        notes: tuple[str, ...] = ()
        settled: list[str] = []

        def build(snapshot: HostSnapshot) -> Wanted:
            nonlocal notes
            settled[:] = [holding.id for holding in due()]
            debt, defined = debt_of(machine, due()), store.services()
            notes = _told(debt, defined)
            return way_back(debt, snapshot, defined)

        outcome = await _patiently(machine, build, options, progress)
        result = change_result(outcome, store.current_mode(), store.current_mode())
        if outcome.status is RunStatus.REFUSED and standing(machine):
            waits = (
                f"nothing is put back before this is over: {in_words(standing(machine)[0])}; the gpumod that made that"
                f" room does it then, or `{BACK}`"
            )
            result = result.model_copy(update={"error": None, "exit_code": 0})
            return FreeResult(back=result, notes=(*notes, waits))
        if outcome.status is RunStatus.REFUSED:
            result = result.model_copy(update={"error": _not_back(outcome)})
        if outcome.exit_code == 0:
            for name in settled:
                store.delete_holding(name, event=self._event("lease-settled", name))
        return FreeResult(back=result, notes=notes, next=BACK if outcome.exit_code else "")


def _told(debt: Debt, defined: Mapping[str, Service]) -> tuple[str, ...]:
    """What of a debt is not put back, in words."""
    since = ("the machine was switched to a mode since: that is left as it is",) if debt.superseded else ()
    return (*since, *(f"{service} is not put back: {why}" for service, why in lost(debt, defined).items()))


def _not_back(outcome: Outcome) -> ErrorInfo:
    """What was put away does not fit any more."""
    names = ", ".join(member.service for member in outcome.plan.target.members)
    return ErrorInfo(
        code="not-put-back",
        message=f"{names} cannot be put back now: {outcome.plan.why}",
        why="somebody took the room meanwhile",
        hint=f"stop what was started since (`gpumod ps`), then {BACK}",
        details={"exceeds_by_mb": outcome.plan.exceeds_by_mb},
    )


async def _patiently(machine: Machine, build: Build, options: Options, progress: OnProgress) -> Outcome:
    """Change the machine; while somebody else does, wait for them: what was put away must come back."""
    give_up = machine.clock.monotonic() + PATIENCE_S
    told = False
    while True:
        try:
            return await change(machine, "free --back", build, options, reporter(progress))
        except Busy as busy:
            if busy.code != "machine-busy" or machine.clock.monotonic() > give_up:
                raise
            if not told:
                reporter(progress)(Progress(kind=ProgressKind.WAITING, run_id="", text=busy.info.message))
            told = True
            await machine.clock.sleep(0.2)
