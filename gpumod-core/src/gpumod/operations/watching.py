"""watch: one look at whether the mode is whole, and what mends it. `gpumod watch` looks again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpumod.domain.errors import Busy, ErrorInfo, GpumodError, Stale, UnknownName, UsageError
from gpumod.domain.health import Pulse, Transition, tried_now, wait_after_s
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target
from gpumod.domain.run import Event, Handle, Run, RunStatus
from gpumod.domain.service import Service
from gpumod.domain.settings import LAST_MODE
from gpumod.domain.states import GONE, Action
from gpumod.engine.change import change
from gpumod.engine.observe import observe
from gpumod.engine.open_runs import left_half_way
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.turns import begun_turns, clear_lost, in_words, users
from gpumod.operations.base import DISK_FULL, OnProgress, change_result, is_interrupted, may_be_over_soon, reporter
from gpumod.operations.following_health import OWN, FollowingHealth, not_well, not_yet
from gpumod.operations.history import History
from gpumod.operations.modes import Modes
from gpumod.operations.not_as_left import held_by, members_of, still_held, wrong_in
from gpumod.operations.params import ModeRef, RecoverParams, SwitchParams
from gpumod.operations.sleeping_idle import SleepingIdle
from gpumod.operations.switching import Switching
from gpumod.operations.watch_results import (
    Held,
    Mended,
    WatchParams,
    WatchResult,
    WatchUnitState,
    mended_by,
)
from gpumod.operations.watch_units import meant, others, refuse_second
from gpumod.operations.watching_turns import WatchingTurns
from gpumod.planner.changes import with_needs

NO_TRY, MOST_TRIES = "boot-disk-full", 200
"""An event: one of the tries at a boot failed for a full disk, and is not counted. So many of each are kept."""
BOOT_TRIES = 12
"""About half an hour, with the waits of `wait_after_s`: a driver that is still being loaded comes up sooner."""
RESTART = f"{OWN}restart "
"""Begins the commands of runs that start again what ended by itself."""
LOOK_BACK = 200
"""So many of the last runs are looked at for the first one of a boot."""
NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True)
class Boot:
    """This boot of the machine. What was started before `since` is not looked after."""

    id: str
    since: float
    pending: bool

    def looks_after(self, handle: Handle) -> bool:
        """By the boot, where that is noted of what was started: the clock may have been set back in it."""
        return handle.boot == self.id if handle.boot and self.since else handle.started_at >= self.since


class Watching(Switching, Modes, History, SleepingIdle, FollowingHealth, WatchingTurns):
    async def watch(self, params: WatchParams, progress: OnProgress = None) -> WatchResult:
        """Bring the boot mode up after a boot; restart by a plan what ended by itself, or lost its GPU, in the mode;
        put to sleep what nobody has used for its time-out.

        A person goes first: while somebody changes the machine, or a run is open, nothing is done.
        """
        machine, store = self._machine, self._machine.store
        store.check_writable()
        if params.install or params.uninstall:
            return await self._unit(params)
        pulses, transitions = params.pulses, tuple[Transition, ...]()
        if params.follow_s is not None:
            pulses, transitions, interrupted = await self._follow(pulses, params.follow_s)
            if interrupted:
                return self._cut_short(params, pulses, transitions)
        snapshot = await observe(machine)
        boot = self._boot(snapshot)
        mended: list[Mended] = []
        notes: list[str] = []
        if boot.pending and (other := self._changed_since(boot)) is not None:
            self._machine.store.add_event(self._restored(boot.id, given_up=True, why="somebody changed it"))
            what = f"nothing is brought up after this boot: {other.command} has changed the machine since"
            notes.append(f"{what}; gpumod switch MODE, where another mode is meant")
        elif boot.pending:
            mended += await self._restore(boot, notes, progress)
        elif (run := left_half_way(machine)[0]) is not None:
            mended += await self._cut_off(run, notes, progress)
        elif store.open_run() is None:
            clear_lost(machine)
            mended += (
                await self._keep(snapshot, boot, params.held, notes, progress)
                or await self._end_turns(notes, progress)
                or await self._let_sleep(snapshot, notes, progress)
            )
        notes += not_well(pulses)
        interrupted = any(m.error is not None and m.error.code == "interrupted" for m in mended)
        if mended and not interrupted:
            snapshot = await observe(machine)
        mode = store.current_mode()
        known = mode is not None and mode in store.modes()
        status = await self.mode_status(ModeRef(mode=mode or "")) if known else None
        whole = status is not None and status.whole
        left, holder = left_half_way(machine)
        if status is not None and status.extra and left is None and holder is None:
            more, taken = ", ".join(status.extra), f" --with {status.alternative}" if status.alternative else ""
            notes.append(f"also up, and not wanted by mode {mode}: {more}; gpumod switch {mode}{taken} ends it")
        return WatchResult(
            at=machine.clock.now(),
            mode=mode,
            whole=whole,
            wrong=tuple(m for m in status.members if not m.ok) if status is not None else (),
            ok=left is None and (whole or mode is None or holder is not None),
            mended=tuple(mended),
            notes=tuple(notes),
            transitions=transitions,
            pulses=pulses,
            held={**still_held(snapshot, params.held), **held_by(snapshot)},
            interrupted=interrupted,
        )

    def _cut_short(
        self, params: WatchParams, pulses: Mapping[str, Pulse], transitions: tuple[Transition, ...]
    ) -> WatchResult:
        """The end of a watch, between two looks."""
        return WatchResult(
            at=self._machine.clock.now(),
            mode=self._machine.store.current_mode(),
            whole=None,
            transitions=transitions,
            pulses=pulses,
            held=params.held,
            interrupted=True,
        )

    async def _let_sleep(self, snapshot: HostSnapshot, notes: list[str], progress: OnProgress) -> list[Mended]:
        """Put to sleep what idles; while somebody is at work it is left for the next look."""
        try:
            done = await self._sleep_what_idles(OWN, snapshot, notes, progress)
        except Busy:
            return []
        if done is None:
            return []
        names, why, made = done
        if isinstance(made, GpumodError):
            return [Mended(what="sleep", subject=names, why=why, error=made.info)]
        return [mended_by("sleep", names, why, made)]

    async def _unit(self, params: WatchParams) -> WatchResult:
        """Have systemd run `watch` from boot on, or take that back."""
        manager, unit = meant(self._tools, params.manager)
        if params.install:
            refuse_second(self._tools, manager)
            if self._boot_seen() is None:
                self._note_boot(since=0.0, restored=True)  # from the next boot on
        changed = await (unit.install() if params.install else unit.uninstall())
        notes: list[str] = []
        if params.install:
            notes += unit.advice()
            if self._machine.settings.boot_mode is None:
                notes.append("after a boot nothing comes up by itself: gpumod settings set boot_mode MODE")
            notes += [
                f"{key} comes from the environment here, which the unit does not see: gpumod settings set {key} ..."
                for key in sorted(self._tools.from_environment)
            ]
        else:
            notes += [
                f"{other.there()} still runs it, for another manager: {other.command('--uninstall')}"
                for other in others(self._tools, manager)
            ]
        state = WatchUnitState(
            name=unit.name,
            path=str(unit.path),
            manager=manager,
            installed=params.install,
            changed=changed,
            notes=tuple(notes),
        )
        return WatchResult(
            at=self._machine.clock.now(), mode=self._machine.store.current_mode(), whole=None, unit=state
        )

    # --- after a boot -----------------------------------------------------------------------------------------------

    def _boot(self, snapshot: HostSnapshot) -> Boot:
        """This boot, noted when it is first seen. It is pending until the boot mode is up, or was given up."""
        boot_mode, boot = self._machine.settings.boot_mode, self._machine.boot()
        since = self._boot_seen()
        if since is None or since > self._machine.clock.now():  # the clock may have been set back since it was noted
            # the first watch of all, on a machine that is at work: this is no boot
            first = not self._machine.store.events_of("boot-seen", limit=1)
            at_work = first and any(r.state not in GONE for r in snapshot.services.values())
            since = 0.0 if at_work else self._begin_of(boot)
            foreign_mb = {str(gpu.index): snapshot.foreign_mb(gpu.index) for gpu in snapshot.gpus}
            self._note_boot(since=since, restored=at_work or boot_mode is None, foreign_mb=foreign_mb)
        restored = next(iter(self._machine.store.events_of("boot-restored", limit=1)), None)
        pending = restored is None or restored.data.get("boot") != boot
        return Boot(boot, since, pending and boot_mode is not None)

    def _begin_of(self, boot: str) -> float:
        """When the machine was first changed in this boot; what is up since then was started in it. Else now."""
        runs = self._machine.store.runs(LOOK_BACK)
        return min([run.started_at for run in runs if run.boot == boot] + [self._machine.clock.now()])

    def _boot_seen(self) -> float | None:
        """Since when services are looked after in this boot; None before it was seen."""
        last = next(iter(self._machine.store.events_of("boot-seen", limit=1)), None)
        return float(str(last.data["since"])) if last and last.data.get("boot") == self._machine.boot() else None

    def _note_boot(self, *, since: float, restored: bool, foreign_mb: Mapping[str, int] = NOTHING) -> None:
        """`foreign_mb` by GPU is what others held then: `doctor` tells how it has grown."""
        store, boot = self._machine.store, self._machine.boot()
        with store.together():  # seen alone would be pending: the next look would switch a machine at work
            store.add_event(self._event("boot-seen", "machine", boot=boot, since=since, foreign_mb=dict(foreign_mb)))
            if restored:
                store.add_event(self._restored(boot))

    def _restored(self, boot: str, **data: object) -> Event:
        """What says that nothing is to be brought up any more in this boot."""
        return self._event("boot-restored", "machine", boot=boot, **data)

    def _changed_since(self, boot: Boot) -> Run | None:
        """What somebody else has changed in this boot: what is there since then is what is meant."""
        newest = self._machine.store.runs(BOOT_TRIES + 1)  # of its own there are no more
        return next((run for run in newest if run.boot == boot.id and not run.command.startswith(OWN)), None)

    async def _restore(self, boot: Boot, notes: list[str], progress: OnProgress) -> list[Mended]:
        store, now = self._machine.store, self._machine.clock.now()
        tries = [e for e in store.events_of("boot-try", limit=MOST_TRIES) if e.data.get("boot") == boot.id]
        if tries and tries[0].at <= now < tries[0].at + wait_after_s(len(tries)):  # ahead: the clock was set back
            return []
        store.add_event(self._event("boot-try", "machine", boot=boot.id))
        done = await self._closed(progress)
        if all(m.error is None for m in done):
            done.append(await self._to_boot_mode(progress))
        error = done[-1].error
        if error is not None and error.code == DISK_FULL:
            store.add_event(self._event(NO_TRY, "machine", boot=boot.id))
        told = [e for e in store.events_of("boot-try", NO_TRY, limit=MOST_TRIES) if e.data.get("boot") == boot.id]
        for_nothing = sum(e.kind == NO_TRY for e in told)  # each comes behind its try
        given_up = error is not None and len(told) - 2 * for_nothing >= BOOT_TRIES
        if error is None or given_up:
            store.add_event(self._restored(boot.id, given_up=given_up))
        if given_up:
            notes.append(f"{done[-1].subject} is given up after {BOOT_TRIES} tries: gpumod switch, when it can be")
        return done

    async def _cut_off(self, run: Run, notes: list[str], progress: OnProgress) -> list[Mended]:
        """Close a run of its own in the middle of which a watch was killed: that is nobody's decision. What it was to
        restart counts as tried. Any other is a person's to close."""
        own = run.command.startswith(OWN) and run.boot == self._machine.boot()
        if not own or run.status is not RunStatus.RUNNING:
            notes.append(f"run {run.id} ({run.command}) is not closed: gpumod recover")
            return []
        done = await self._closed(progress)
        notes += [f"{m.subject} is not closed yet: {m.error.message}" for m in done if m.error and m.change is None]
        done = [m for m in done if m.change is not None]  # what keeps it from being closed may be over soon
        if done and run.command.startswith(RESTART) and all(m.error is None for m in done):
            started = (record.step.service for record in run.steps if record.step.action is Action.START)
            for service in dict.fromkeys([*(member.service for member in run.target.members), *started]):
                self._note_restart(service, done[0].why, failed=done[0].why)
        return done

    async def _closed(self, progress: OnProgress) -> list[Mended]:
        """Close a run that the machine's going down, or the end of this gpumod, has cut off."""
        run = self._machine.store.open_run()
        if run is None:
            return []
        own = run.command.startswith(OWN) and run.boot == self._machine.boot()
        why = f"{'gpumod watch ended' if own else 'the machine went down'} in the middle of it"
        try:
            closed = (await self.recover(RecoverParams(way="rollback"), progress)).change
        except GpumodError as error:
            return [Mended(what="recover", subject=run.command, why=why, error=error.info)]
        return [mended_by("recover", run.command, why, closed)]

    async def _to_boot_mode(self, progress: OnProgress) -> Mended:
        asked = self._machine.settings.boot_mode or ""
        store = self._machine.store
        mode, alternative = asked, None
        if asked == LAST_MODE:
            mode, alternative = store.current_mode() or "", store.current_alternative()
            if not mode:
                error = ErrorInfo(code="no-mode", message="no mode was current", hint="gpumod switch MODE")
                return Mended(what="boot", subject=LAST_MODE, why="boot_mode says so", error=error)
        why = f"the machine was booted, and boot_mode is {asked}"
        try:
            try:
                made = await self._switch(SwitchParams(mode=mode, alternative=alternative), progress, OWN)
            except (Stale, UnknownName, UsageError):  # the alternative is gone, or what it was made of
                if alternative is None:
                    raise
                made = await self._switch(SwitchParams(mode=mode), progress, OWN)
        except GpumodError as error:
            return Mended(what="boot", subject=mode, why=why, error=error.info)
        return mended_by("boot", mode, why, made)

    # --- keeping it -------------------------------------------------------------------------------------------------

    async def _keep(
        self, snapshot: HostSnapshot, boot: Boot, held: Mapping[str, Held], notes: list[str], progress: OnProgress
    ) -> list[Mended]:
        """Restart, by one plan, what ended by itself and what lost its GPU, each at most a few times."""
        store = self._machine.store
        mode, alternative = store.modes().get(store.current_mode() or ""), store.current_alternative()
        if mode is None:
            return []
        taken = self._as_taken(mode, alternative, snapshot, self._defined())[0]
        services, wants = taken.services, taken.target
        own = [h for h in store.handles().values() if boot.looks_after(h) and h.launched.adopted is None]
        launched = {h.service: h.launched for h in own}
        down = {s: why for s, why in self._still_down(snapshot).items() if s in services}
        launched |= {s: services[s] for s in down}
        altered = {**wants.altered, **{h.service: h.altered for h in own if h.service not in down}}
        mine = with_needs({**services, **launched}, [m.service for m in wants.members if m.service in services])
        found = {s: why for s, why in {**wrong_in(snapshot, held, launched), **down}.items() if s in mine}
        gone = {s for s in found if snapshot.reading(s).state in GONE}
        meant = {s for s in found if s not in gone and self._unloads_itself(launched[s])}
        defined = {**services, **launched}
        used = users(begun_turns(self._machine), snapshot, defined)
        wait = {*used} - gone
        later = "is restarted when nobody uses it"
        notes += [f"{s} {later}: {in_words(used[s][0])}; {why}" for s, why in found.items() if s in wait]
        refused = self._refused(found)
        due = {s: w for s, w in found.items() if s not in {*meant, *wait} and self._may_restart(s, w, notes)}
        needs = {s: with_needs(defined, [s]) & gone - {s} for s in due}
        due = {s: why for s, why in due.items() if needs[s] <= due.keys()}
        tried = tried_now(sorted(due, key=lambda s: len(needs[s])), {*down, *refused})
        due = {s: why for s, why in due.items() if s in tried}
        notes += [not_yet(s, refused[s]) for s in refused if s not in {*due, *meant, *wait}]
        if not due:
            return []
        told = "; ".join(f"{s}: {why}" for s, why in due.items())
        names = ", ".join(due)

        def build(now: HostSnapshot) -> Wanted:
            """Of those that were due the ones that still are: a person may have mended them meanwhile."""
            wrong = {**wrong_in(now, held, launched), **self._still_down(now)}
            used = users(begun_turns(self._machine), now, defined)
            wait = {s for s in used if now.reading(s).state not in GONE}
            there = (store.current_mode(), store.current_alternative()) == (mode.id, alternative)
            for service in [s for s in due if s not in wrong or s in wait or not there]:
                del due[service]
            lost = tuple(s for s in due if now.reading(s).state not in GONE)
            members = members_of(wants, due)
            target = Target(members=members, stop_others=False, restart=lost, altered=altered)
            return Wanted(target, {**services, **{s: launched[s] for s in due}})

        try:
            outcome = await change(self._machine, f"{RESTART}{names}", build, Options(), reporter(progress))
            if not due:
                return []
            done = mended_by("restart", names, told, change_result(outcome, mode.id, store.current_mode()))
        except Busy as busy:  # somebody is at work: look again later
            return _said(busy, notes)
        except GpumodError as error:
            done = Mended(what="restart", subject=names, why=told, error=error.info)
            if may_be_over_soon(error):
                return [done] if is_interrupted(done.error) else _noted(due, error.info.message, notes)
        tried = [*dict.fromkeys([*due, *(need for s in due for need in sorted(needs[s]))])]
        return self._tried(done, {s: found[s] for s in tried}, notes)

    def _unloads_itself(self, service: Service) -> bool:
        return self._machine.capabilities(service).unloads_itself


def _noted(services: Iterable[str], why: str, notes: list[str]) -> list[Mended]:
    """What hinders the restart of `services` for a moment is no try: it is said, and the next look tries again."""
    notes += [not_yet(s, why) for s in services]
    return []


def _said(busy: Busy, notes: list[str]) -> list[Mended]:
    """Nothing is mended while somebody goes first; whoever changes the machine just now is not worth a word."""
    if busy.code != "machine-busy":
        notes.append(f"{busy.info.message}: {busy.info.why}")
    return []
