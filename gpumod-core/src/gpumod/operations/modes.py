"""Modes: list, show, create, edit, delete, status, verify."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import ValidationError

from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.idling import awake_that_need, member_of, timeout_s
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Mode, Want
from gpumod.domain.plan import Target
from gpumod.domain.states import ALIVE, Action, State
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe_twice
from gpumod.engine.open_runs import refuse_in_use
from gpumod.engine.planning import Options, Planned, plan_for
from gpumod.engine.verify import as_stopped, misses, stopped_instead
from gpumod.operations.base import bad_input
from gpumod.operations.params import ModeDelete, ModeRef, ModeWrite, NoParams
from gpumod.operations.results import (
    DeletedResult,
    ModeListResult,
    ModeMemberStatus,
    ModeResult,
    ModeRow,
    ModeStatusResult,
)
from gpumod.operations.targets import Targets, in_words, told_of_edits
from gpumod.planner import check_needs

LEAVES = frozenset({Action.SLEEP, Action.STOP})
"""All that a switch would do to a member whose turn it is."""


class Modes(Targets):
    async def mode_list(self, params: NoParams) -> ModeListResult:
        """Every mode, with what its members declare in sum."""
        store = self._machine.store
        services, current = store.services(), store.current_mode()
        rows = tuple(
            ModeRow(
                id=mode.id,
                name=mode.name or mode.id,
                description=mode.description,
                services=mode.services,
                current=mode.id == current,
                declared_mb=sum(services[s].vram_mb for s in mode.services if s in services),
            )
            for mode in store.modes().values()
        )
        return ModeListResult(modes=rows, current=current)

    async def mode_show(self, params: ModeRef) -> ModeResult:
        return _shown(self._mode(params.mode))

    async def mode_create(self, params: ModeWrite) -> ModeResult:
        """Define a mode. Its services must exist, and their dependencies must hold."""
        with self._machine.store.together():  # as in every write here: nobody else writes between read and write
            self._refuse_broken("modes", params.id)
            if params.id in self._machine.store.modes():
                raise UsageError(
                    "mode-exists", f"there is a mode {params.id!r} already", hint=f"gpumod mode edit {params.id}"
                )
            return self._write(Mode(id=params.id), params, "mode-created")

    async def mode_edit(self, params: ModeWrite) -> ModeResult:
        """Change a mode's definition. What runs is not touched; the next switch applies it."""
        with self._machine.store.together():
            return self._write(self._mode(params.id), params, "mode-edited")

    def _write(self, old: Mode, params: ModeWrite, kind: str) -> ModeResult:
        """Store what `params` make of `old`. Called inside one transaction, in which `old` was read too."""
        given = {k: v for k, v in params.model_dump(include={"name", "description"}).items() if v is not None}
        services = self._machine.store.services()
        for name in {*params.add, *params.want} & {*params.remove} - {*old.services}:
            raise UsageError("bad-input", f"{name} is both added and removed", hint=f"leave --remove {name} away")
        try:
            members = params.members_after(old.members)
        except UsageError:
            for name in (*params.remove, *params.want, *params.start_order, *params.idle_timeout):
                if name not in old.services:
                    self._service(name, services)  # one that is nowhere defined is a slip of the pen: say so
            raise
        try:
            mode = Mode.model_validate({**old.model_dump(), **given, "members": members})
        except ValidationError as error:
            raise bad_input(f"mode {params.id!r}", error, "gpumod mode edit") from error
        for member in mode.members:
            self._service(member.service, services)
        check_needs(services, mode.services)
        self._machine.store.put_mode(mode, event=self._event(kind, mode.id), user_edited=True)
        return _shown(mode)

    async def mode_delete(self, params: ModeDelete) -> DeletedResult:
        """Delete a mode's definition; its services stay. Neither the mode that is current nor one that a run is on its
        way to can be deleted."""
        store = self._machine.store
        with store.together():
            mode = None if self._broken("modes", params.mode) else self._mode(params.mode)
            if mode is not None and store.current_mode() == mode.id:
                raise Failed(
                    "mode-is-current",
                    f"mode {mode.id!r} is the current one",
                    why="its services may be running",
                    hint=switch_first(mode.id, store.modes()),
                )
            refuse_in_use(self._machine, f"mode delete {params.mode}", lambda run: run.target.mode == params.mode)
            if self._machine.settings.boot_mode == params.mode:
                raise Failed(
                    "mode-is-boot-mode",
                    f"mode {params.mode!r} is what comes up after a boot",
                    why="the setting boot_mode names it",
                    hint="gpumod settings set boot_mode MODE (or --default: nothing comes up by itself)",
                )
            store.delete_mode(params.mode, event=self._event("mode-deleted", params.mode))
        return DeletedResult(kind="mode", id=params.mode)

    async def mode_status(self, params: ModeRef) -> ModeStatusResult:
        """Each member as the mode wants it and as it is, and what a member needs where that is not as it should be."""
        mode = self._mode(params.mode)
        store = self._machine.store
        snapshot = await observe_twice(self._machine)
        current = store.current_mode() == mode.id
        alternative = store.current_alternative() if current else None
        asked, lost = self._as_taken(mode, alternative, snapshot, self._defined())
        notes: tuple[str, ...] = (f"it runs with {self._told(alternative)}",) if alternative else ()
        if lost is not None:
            told = f"it was taken with alternative {alternative}, but is compared with what is defined now"
            go = f"gpumod switch {mode.id} goes to the mode as it is defined now"
            notes = (f"{told}: {in_words(lost)}", go)
        instead = _instead(self._machine, asked.target, snapshot)
        planned = plan_for(self._machine, snapshot, as_stopped(asked, instead), Options(cascade=True))
        notes = (*notes, *told_of_edits(asked, snapshot, planned.plan))
        wrong = dict(misses(planned, instead))
        awake = [
            m.service
            for m in asked.target.members
            if m.want is Want.TIME_SHARED and snapshot.reading(m.service).state is State.RUNNING
        ]
        if len(awake) == 1 and {s.action for s in planned.plan.steps if s.service == awake[0]} <= LEAVES:
            wrong.pop(awake[0], None)  # it has its turn
        for name in [s for s in wrong if _idles(s, mode, planned)]:
            del wrong[name]
        wanted = {row.id: row.wanted for row in planned.plan.services}
        wanted |= {m.service: m.want for m in asked.target.members if m.service in instead}
        named = [m.service for m in asked.target.members]
        named += sorted(s for s in wrong if s not in named and s in wanted and wanted[s] != "stopped")
        others = sorted(s for s in wrong if s not in named)
        return ModeStatusResult(
            mode=mode.id,
            current=current,
            alternative=alternative,
            whole=not wrong,
            members=tuple(
                ModeMemberStatus(
                    service=name,
                    wanted=wanted[name],
                    state=snapshot.reading(name).state,
                    ok=name not in wrong,
                    detail=wrong.get(name) or instead.get(name, ""),
                )
                for name in named
                if name in wanted
            ),
            extra=tuple(s for s in others if snapshot.reading(s).state in ALIVE),
            notes=(*notes, *(f"{s} {wrong[s]}" for s in others if snapshot.reading(s).state not in ALIVE)),
        )

    async def mode_verify(self, params: ModeRef) -> ModeStatusResult:
        """The same, for scripts: the CLI's exit status says whether the mode is whole."""
        return await self.mode_status(params)


def switch_first(mode: str, modes: Collection[str]) -> str:
    """How to leave `mode`, to one of the others among `modes` (to the empty one where that is there)."""
    others = sorted({*modes} - {mode}, key=lambda other: (other != "blank", other))
    return (
        f"`gpumod switch {others[0]}` first" if others else "`gpumod mode create blank --services ''`, and switch to it"
    )


def modes_naming(modes: Mapping[str, Mode], service_id: str) -> tuple[str, ...]:
    return tuple(sorted(mode.id for mode in modes.values() if service_id in mode.services))


def without_service(mode: Mode, service_id: str) -> Mode:
    return mode.model_copy(update={"members": tuple(m for m in mode.members if m.service != service_id)})


def _idles(service: str, mode: Mode, planned: Planned) -> bool:
    """True for one that sleeps and may, because nobody uses it: all that it would need is to wake. What is awake and
    needs it lacks it."""
    if awake_that_need(service, planned.snapshot):
        return False
    definition = planned.services.get(service)  # that of today, as far as its time-out is concerned
    sleeps = {step.action for step in planned.plan.steps if step.service == service} == {Action.WAKE}
    return sleeps and definition is not None and timeout_s(definition, member_of(mode, service), 0.0) is not None


def _instead(machine: Machine, target: Target, snapshot: HostSnapshot) -> Mapping[str, str]:
    """Members that are to sleep, and were stopped since their sleep had freed nothing: as good as can be."""
    asleep = {member.service for member in target.members if member.want is not Want.AWAKE}
    return {
        service: f"was stopped: its sleep at {level} freed nothing; it is tried again once the service has run again"
        for service, level in stopped_instead(machine).items()
        if service in asleep and snapshot.reading(service).state is State.STOPPED
    }


def _shown(mode: Mode) -> ModeResult:
    return ModeResult(mode=mode, services=mode.services)
