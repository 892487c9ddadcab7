"""auto_sleep_idle: what nobody has used for its time-out goes to sleep, by a plan."""

from __future__ import annotations

from collections.abc import Sequence

from gpumod.domain.errors import Busy, Failed, GpumodError
from gpumod.domain.health import Budget, restart_at, tried_now
from gpumod.domain.idling import idle_s
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.states import State
from gpumod.engine.change import change
from gpumod.engine.idling import Idle, Idling
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.operations.base import OnProgress, change_result, is_interrupted, may_be_over_soon, reporter
from gpumod.operations.results import ChangeResult
from gpumod.operations.switching import dry
from gpumod.operations.targets import Targets, mode_of
from gpumod.operations.use_results import IdleRow, SleepIdleParams, SleepIdleResult

USED_AGAIN = "used-again"
PATIENCE = Budget(restarts=3, window_s=3600.0, first_s=60.0, factor=4.0)
"""So often, and so long after one another, `gpumod watch` tries to put a service to sleep that does not fall asleep."""


class SleepingIdle(Targets):
    async def auto_sleep_idle(self, params: SleepIdleParams, progress: OnProgress = None) -> SleepIdleResult:
        """Put to sleep, by one plan, every service that nobody has used for its time-out.

        Only services that tell of their use are put to sleep, never while a request is under way or a turn lasts. Each
        call looks once, and what it sees is kept: idle time is known from the second look on, or at once where a
        server tells itself when it was used last.
        """
        snapshot = await observe(self._machine)
        idling = self._idling(snapshot)
        seen = await idling.look()
        due = self._tried_now([one for one in seen if not one.why])
        rows = tuple(_row(one, self._machine.clock.now()) for one in seen)
        if not due:
            return SleepIdleResult(services=rows)
        options = Options(rollback=not params.no_rollback)
        if params.dry_run:
            planned = plan_for(self._machine, snapshot, self._asleep(due, snapshot), options)
            return SleepIdleResult(services=rows, change=dry(planned, self._machine.store.current_mode(), options))
        try:
            done = await self._put_to_sleep("service sleep-idle", idling, due, options, progress)
        except Busy:
            raise
        except GpumodError as error:
            if not may_be_over_soon(error):
                self._note_failures(due, error.info.message)
            raise
        if done is not None and done.exit_code and not is_interrupted(done.error):
            self._note_failures(due, done.error.message if done.error else "")
        notes = () if done else ("what was to sleep was used again just now",)
        return SleepIdleResult(services=rows, change=done, notes=notes)

    async def _sleep_what_idles(
        self, by: str, snapshot: HostSnapshot, notes: list[str], progress: OnProgress
    ) -> tuple[str, str, ChangeResult | GpumodError] | None:
        """The same for `watch`, with its patience: who went to sleep, why, and what came of it; None: nobody."""
        idling = self._idling(snapshot)
        seen = await idling.look()
        notes += [f"{one.service} does not sleep when it idles: {one.why}" for one in seen if one.use is None]
        due = self._tried_now([one for one in seen if not one.why and self._has_patience(one.service)])
        if not due:
            return None
        names = ", ".join(one.service for one in due)
        why = "; ".join(f"{one.service}: {_reason(one, self._machine.clock.now())}" for one in due)
        try:
            done = await self._put_to_sleep(f"{by}sleep {names}", idling, due, Options(), progress)
        except Busy:
            raise
        except GpumodError as error:
            if not may_be_over_soon(error):
                self._note_failures(due, error.info.message)
            elif not is_interrupted(error.info):
                notes += [f"{one.service} stays awake: {error.info.message}" for one in due]
                return None
            return names, why, error
        if done is not None and done.exit_code and not is_interrupted(done.error):
            self._note_failures(due, done.error.message if done.error else "")
        return (names, why, done) if done is not None else None

    async def _put_to_sleep(
        self, command: str, idling: Idling, due: Sequence[Idle], options: Options, progress: OnProgress
    ) -> ChangeResult | None:
        """One change; None where something was asked of one of them in the last moment."""

        def build(snapshot: HostSnapshot) -> Wanted:
            return self._asleep(due, snapshot)

        async def confirm() -> None:
            if not await idling.unused_since(due):
                raise Failed(USED_AGAIN, "it was used again just now", why="nothing was changed")

        try:
            outcome = await change(self._machine, command, build, options, reporter(progress), confirm)
        except Failed as error:
            if error.code != USED_AGAIN:
                raise
            return None
        mode = self._machine.store.current_mode()
        return change_result(outcome, mode, mode)

    def _asleep(self, due: Sequence[Idle], snapshot: HostSnapshot) -> Wanted:
        """What sleeps: those of `due` that still run."""
        members = tuple(
            TargetMember(service=one.service, want=Want.ASLEEP, why=_reason(one, snapshot.at))
            for one in due
            if snapshot.reading(one.service).state is State.RUNNING
        )
        return Wanted(Target(members=members, stop_others=False), self._machine.store.services())

    def _idling(self, snapshot: HostSnapshot) -> Idling:
        store = self._machine.store
        mode = store.modes().get(store.current_mode() or "")
        if mode is not None:
            mode = mode_of(mode, self._as_taken(mode, store.current_alternative(), snapshot, self._defined())[0].target)
        return Idling(self._machine, snapshot, mode, store.services())

    def _has_patience(self, service: str) -> bool:
        now = self._machine.clock.now()
        at = restart_at(self._failures(service), PATIENCE, now)
        return at is not None and at <= now

    def _tried_now(self, due: Sequence[Idle]) -> tuple[Idle, ...]:
        """Who of `due` is put to sleep by one plan; of those that did not fall asleep one, whose failure is oldest."""
        failed_at = {one.service: max(self._failures(one.service), default=0.0) for one in due}
        names = sorted(failed_at, key=lambda service: failed_at[service])
        now = tried_now(names, {service for service, at in failed_at.items() if at})
        return tuple(one for one in due if one.service in now)

    def _failures(self, service: str) -> list[float]:
        """When it was put to sleep in vain, as far as that is not long ago."""
        since = self._machine.clock.now() - PATIENCE.window_s
        events = self._machine.store.events_of("idle-sleep-failed", limit=100)
        return [event.at for event in events if event.subject == service and event.at > since]

    def _note_failures(self, due: Sequence[Idle], why: str) -> None:
        for one in due:
            self._machine.store.add_event(self._event("idle-sleep-failed", one.service, why=why))


def _reason(one: Idle, now: float) -> str:
    passed_s = idle_s(one.use, now) if one.use is not None else 0.0
    return f"it idles for {passed_s:.0f} s, of {one.timeout_s:g} s that it may"


def _row(one: Idle, now: float) -> IdleRow:
    return IdleRow(
        service=one.service,
        timeout_s=one.timeout_s,
        idle_s=None if one.use is None else round(idle_s(one.use, now), 3),
        in_flight=one.in_flight,
        why=one.why,
    )
