"""export, diff, apply: everything that is defined on this machine, as one document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gpumod.domain.box import Box, ReadBox
from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target
from gpumod.domain.run import Event
from gpumod.domain.secrets import public, with_secrets_of
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.domain.states import SERVING
from gpumod.engine.change import change
from gpumod.engine.leftovers import keepers, sweep_now
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe_twice
from gpumod.engine.open_runs import refuse_in_use, uses_service
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.engine.room import refuse_owed
from gpumod.operations.base import OnProgress, change_result, drift, reporter
from gpumod.operations.box_results import APPLY_NOW, ApplyResult, DiffResult, DriftRow, ExportResult, ObjectChange
from gpumod.operations.differences import differences, in_event
from gpumod.operations.lost import lost_database
from gpumod.operations.modes import modes_naming, switch_first
from gpumod.operations.params import ApplyParams, BoxDocument, DiffParams, NoParams
from gpumod.operations.results import ChangeResult
from gpumod.operations.secrets import refuse_hidden, told_of_lost_secrets, told_of_secrets
from gpumod.operations.services import Services
from gpumod.operations.staying_adopted import refuse_unadopted
from gpumod.operations.switching import dry
from gpumod.operations.targets import Targets, in_words
from gpumod.planner import check_needs
from gpumod.planner.changes import with_needs

OF_A_SIMULATION = ("sim_machine", "gpu_probe", "bin_path")
"""The settings that tie a home to a simulated machine: that is not part of what is defined on it."""

KINDS = {"services": "service", "modes": "mode", "settings": "setting"}
"""What the rows of a table hold; those of other tables are not part of a document."""

NOT_THERE = ("unknown-service", "unknown-dependency")
"""What is told of a service that is named and not defined."""


@dataclass(frozen=True)
class Edits:
    """What applying a box does: from `now` to `then`, checked. `unnamed` are objects that only the home has."""

    now: Box
    then: Box
    changes: tuple[ObjectChange, ...]
    unnamed: tuple[str, ...]
    notes: tuple[str, ...]

    def removed(self, kind: str) -> list[str]:
        return [c.id for c in self.changes if c.kind == kind and c.action == "remove"]

    def written(self, kind: str) -> list[ObjectChange]:
        return [c for c in self.changes if c.kind == kind and c.action != "remove"]


class Boxes(Services, Targets):
    async def export(self, params: NoParams) -> ExportResult:
        """Services, modes and settings as one YAML document, without secrets and what ties it to a simulation."""
        now = self._stored_box()
        shown = {s: public(service) for s, service in now.services.items()}
        defaults = Settings()
        kept = self._of_this_machine()
        typed = Settings.model_validate(dict(now.settings))
        differs = {k: v for k, v in now.settings.items() if getattr(typed, k) != getattr(defaults, k)}
        left_out = [f"service {s}: {', '.join(names)} (a secret)" for s, (_, names) in shown.items() if names]
        left_out += [f"setting {key} (of a simulated machine)" for key in differs if key in kept]
        unread = {
            f"{KINDS[table]} {problem.details['row']}": problem
            for problem in self._machine.store.problems()
            if (table := problem.details["table"]) in KINDS
        }
        left_out += [f"{name}: {problem.message}" for name, problem in unread.items()]
        box = Box(
            {s: service for s, (service, _) in shown.items()},
            now.modes,
            {key: value for key, value in differs.items() if key not in kept},
        )
        return ExportResult(
            yaml=self._tools.presets().dump_box(box),
            left_out=tuple(left_out),
            error=_not_whole(unread) or lost_database(self._machine),
        )

    async def diff(self, params: DiffParams) -> DiffResult:
        """What `apply` would change. Nothing is written."""
        edits = self._edits(params, self._read_box(params))
        return DiffResult(
            source=params.source,
            changes=edits.changes,
            unnamed=edits.unnamed,
            notes=edits.notes,
            drift=await self._drifted(edits.then.services),
        )

    async def apply(self, params: ApplyParams, progress: OnProgress = None) -> ApplyResult:
        """Make the definitions what the document says: all of it or, where anything is wrong, nothing.

        What runs is left alone unless `now`: then one plan brings the current mode to the new definitions first, and
        they are stored when it is reached.
        """
        box = self._read_box(params)
        edits = self._edits(params, box)
        self._refuse_up(edits, params)
        brought = await self._bring(edits, params, progress) if params.now else None
        reached = brought is None or brought.exit_code == 0
        notes = edits.notes
        if reached and not params.dry_run:
            before = keepers(self._machine)
            with self._machine.store.together():
                edits = self._edits(params, box)  # nobody else writes from here on
                self._refuse_up(edits, params)
                self._refuse_in_use(edits)
                self._store_edits(edits, params.source)
            notes = (*edits.notes, *[note for s in edits.removed("service") for note in await self._forget(s)])
            if keepers(self._as_set(edits)) != before:
                await sweep_now(self._as_set(edits), "apply")
        return ApplyResult(
            source=params.source,
            changes=edits.changes,
            unnamed=edits.unnamed,
            notes=notes,
            drift=await self._drifted(edits.then.services),
            applied=reached and not params.dry_run,
            dry_run=params.dry_run,
            change=brought,
        )

    # --- what is, and what is to be ---------------------------------------------------------------------------------

    def _stored_box(self) -> Box:
        store = self._machine.store
        known = {key: value for key, value in store.settings().items() if key in Settings.model_fields}
        return Box(store.services(), store.modes(), {key: value for key, value in known.items() if value})

    def _of_this_machine(self) -> tuple[str, ...]:
        """The settings that a document neither holds nor changes."""
        return OF_A_SIMULATION if self._machine.store.settings().get("sim_machine") else OF_A_SIMULATION[:1]

    def _read_box(self, params: BoxDocument) -> ReadBox:
        return self._tools.presets().read_box(params.text, params.source, self._machine.settings)

    def _edits(self, params: BoxDocument, read: ReadBox) -> Edits:
        """What applying a box does. Raises UsageError `bad-box` that names everything that is wrong with it: with its
        text, and with what could be read of it among what is defined."""
        box, kept = read.box, self._of_this_machine()
        now = _beside(read, self._stored_box())
        services, lost = _with_secrets(box.services, now.services)
        said = {key: value for key, value in box.settings.items() if key not in kept}
        stay = {key: now.settings[key] for key in now.settings if key in kept or not params.prune}
        settings = {key: value for key, value in {**stay, **said}.items() if value is not None}
        then = Box({**now.services, **services}, {**now.modes, **box.modes}, settings)
        if params.prune:
            then = Box(services, box.modes, settings)
        changes = differences(now, then)
        problems = [*read.problems, *lost, *self._box_problems(read, then, changes)]
        if problems:
            raise self._tools.presets().bad_box(params.source, problems)
        unnamed = [f"service {s}" for s in now.services if s in then.services and s not in services]
        unnamed += [f"mode {m}" for m in now.modes if m in then.modes and m not in box.modes]
        notes = [f"setting {k} is left as it is: it belongs to a simulated machine" for k in box.settings if k in kept]
        notes += [note for service in box.services.values() for note in told_of_secrets(service)]
        gone = [now.services[c.id] for c in changes if c.kind == "service" and c.action == "remove"]
        notes += [note for service in gone for note in told_of_lost_secrets(service, self._machine.secrets)]
        return Edits(now, then, changes, tuple(unnamed), tuple(notes))

    def _box_problems(self, read: ReadBox, then: Box, changes: tuple[ObjectChange, ...]) -> Iterator[ErrorInfo]:
        """What is wrong with what a box makes. What it leaves as it is is not looked at again.

        What may only be so because a part of the text could not be read is left out: a removal, a missing service.
        """
        for change_ in changes:
            if read.problems and change_.action == "remove":
                continue
            try:
                if change_.kind == "setting":
                    self._check_offered(change_.id, then.settings.get(change_.id), then.modes)
                elif change_.action == "remove":
                    self._check_removal(change_, then)
                elif change_.kind == "service":
                    refuse_unadopted(self._machine.store.services().get(change_.id), then.services[change_.id])
                    refuse_hidden(change_.id, then.services[change_.id].unit_vars)
                    self._check(then.services[change_.id], then.services)
                elif change_.kind == "mode":
                    for service in then.modes[change_.id].services:
                        self._service(service, then.services)
                    check_needs(then.services, then.modes[change_.id].services)
            except GpumodError as error:
                if read.misses_services and error.info.code in NOT_THERE:
                    continue
                message, why = error.info.message, error.info.why
                named = f"{message}{f': {why}' if why else ''}"
                about = "" if repr(change_.id) in message else f"{change_.kind} {change_.id!r}: "
                yield error.info.model_copy(update={"message": about + named})

    def _check_removal(self, removed: ObjectChange, then: Box) -> None:
        if removed.kind == "mode" and self._machine.store.current_mode() == removed.id:
            first = f"{switch_first(removed.id, then.modes)}, or " if then.modes else ""
            raise Failed(
                "mode-is-current",
                f"mode {removed.id!r} would be removed, and is the current one",
                why="its services may be running",
                hint=f"{first}name it in the document too",
            )
        if removed.kind == "mode" and then.settings.get("boot_mode") == removed.id:
            raise Failed(
                "mode-is-boot-mode",
                f"mode {removed.id!r} would be removed, and comes up after a boot",
                why="the setting boot_mode names it",
                hint="name another boot_mode in the document, or this mode",
            )
        if removed.kind == "service":
            refuse_unadopted(self._machine.store.services().get(removed.id), None)
            naming = [f"mode {m}" for m in modes_naming(then.modes, removed.id)]
            naming += [f"service {s}" for s, found in then.services.items() if removed.id in found.needs]
            if naming:
                raise Failed("in-use", f"service {removed.id!r} would be removed, but {', '.join(naming)} names it")

    def _refuse_up(self, edits: Edits, params: ApplyParams) -> None:
        """Refuse to remove what runs, unless `now`, and what a lease is to bring back."""
        refuse_owed(self._machine, edits.removed("service"))
        handles = self._machine.store.handles()
        up = [s for s in edits.removed("service") if s in handles]
        if up and not params.now:
            raise Failed(
                "still-running",
                f"{', '.join(up)} would be removed, and runs",
                why="nothing was changed",
                hint=f"gpumod service stop {up[0]}, or --now, which stops it first",
            )

    def _refuse_in_use(self, edits: Edits) -> None:
        """Refuse to remove what a run that is open uses. Called inside the transaction that removes it."""
        modes, services = edits.removed("mode"), edits.removed("service")
        if modes or services:
            refuse_in_use(
                self._machine,
                "apply --prune",
                lambda run: run.target.mode in modes or any(uses_service(run, service) for service in services),
            )

    # --- doing it ---------------------------------------------------------------------------------------------------

    async def _bring(self, edits: Edits, params: ApplyParams, progress: OnProgress) -> ChangeResult:
        """Bring what runs to the new definitions by one plan: the current mode, with the alternative with which it was
        taken, or without a mode what drifted alone."""
        machine, store = self._as_set(edits), self._machine.store
        mode_id = store.current_mode()
        notes: list[str] = []

        def build(snapshot: HostSnapshot) -> Wanted:
            mode, alternative = edits.then.modes.get(mode_id or ""), store.current_alternative()
            asked, lost = Wanted(Target(stop_others=False), edits.then.services), None
            if mode is not None:
                asked, lost = self._as_taken(mode, alternative, snapshot, edits.then)
            if lost is not None:
                told = f"mode {mode_id} was taken with alternative {alternative}, and goes to what is defined now"
                notes[:] = [f"{told}: {in_words(lost)}"]
            return _renewed(asked, snapshot, edits.removed("service"))

        options = Options(force=params.force, rollback=not params.no_rollback, cascade=True, timeout_s=params.timeout_s)
        if params.dry_run:
            snapshot = await observe_twice(machine)
            result = dry(plan_for(machine, snapshot, build(snapshot), options), mode_id, options)
        else:
            outcome = await change(machine, APPLY_NOW, build, options, reporter(progress))
            result = change_result(outcome, mode_id, store.current_mode())
        return result.model_copy(update={"notes": (*notes, *result.notes)})

    def _as_set(self, edits: Edits) -> Machine:
        """The machine with the settings that change; what the environment decides stays."""
        then = Settings.model_validate(dict(edits.then.settings))
        changed = {c.id for c in edits.written("setting")} - self._tools.from_environment.keys()
        update = {key: getattr(then, key) for key in changed}
        return replace(self._machine, settings=self._machine.settings.model_copy(update=update))

    def _store_edits(self, edits: Edits, source: str) -> None:
        """Store what differs, each with its event. Called inside one transaction."""
        store = self._machine.store
        for item in edits.written("setting"):
            value = edits.then.settings.get(item.id)
            store.put_setting(item.id, value, event=self._event("setting-changed", item.id, value=value, source=source))
        for mode in edits.removed("mode"):
            store.delete_mode(mode, event=self._event("mode-deleted", mode, source=source))
        for item in edits.written("service"):
            service = edits.then.services[item.id]
            edited = {f.field.partition(".")[0] for f in item.fields} | store.user_edited(item.id)
            fields = edited if item.action == "change" else Service.model_fields.keys() - {"id"}
            store.put_service(service, event=self._event_of(item, source), user_edited=sorted(fields))
        for item in edits.written("mode"):
            store.put_mode(edits.then.modes[item.id], event=self._event_of(item, source), user_edited=True)
        for service_id in edits.removed("service"):
            store.delete_service(service_id, event=self._event("service-removed", service_id, source=source))

    def _event_of(self, item: ObjectChange, source: str) -> Event:
        """What became of a service or a mode, in the words of its own commands."""
        added = "added" if item.kind == "service" else "created"
        kind = f"{item.kind}-{'edited' if item.action == 'change' else added}"
        data = {"source": source, **in_event(item.fields)}
        return Event(at=self._machine.clock.now(), kind=kind, subject=item.id, data=data)

    async def _drifted(self, services: Mapping[str, Service]) -> tuple[DriftRow, ...]:
        """What runs with another definition than in `services`; nothing where the machine cannot be observed."""
        snapshot: HostSnapshot | None = None
        with suppress(GpumodError):
            snapshot = await observe_twice(self._machine)
        if snapshot is None:
            return ()
        differs = {s: drift(services[s], snapshot.reading(s)) for s in services}
        up = [s for s in sorted(differs) if differs[s] and snapshot.reading(s).state in SERVING]
        altered = {s: snapshot.reading(s).altered for s in up}
        again = {s: f"gpumod service restart {s}" for s in up}
        return tuple(DriftRow(service=s, fields=differs[s], command=again[s], altered=altered[s]) for s in up)


def _not_whole(unread: Mapping[str, ErrorInfo]) -> ErrorInfo | None:
    """What to say of a document that lacks objects, whose rows cannot be read."""
    if not unread:
        return None
    return ErrorInfo(
        code="not-whole",
        message=f"the document is not whole: it lacks {', '.join(unread)}",
        why="what is stored of it cannot be read",
        hint=next(iter(unread.values())).hint,
        details={"missing": list(unread)},
    )


def _with_secrets(
    said: Mapping[str, Service], stored: Mapping[str, Service]
) -> tuple[dict[str, Service], list[ErrorInfo]]:
    """What a document says of services with the secrets that it leaves out, and where these have no place any more."""
    out, problems = dict(said), []
    for name, service in said.items():
        try:
            out[name] = with_secrets_of(service, stored.get(name))
        except UsageError as error:
            problems.append(error.info.model_copy(update={"message": f"{error.info.message}: {error.info.why}"}))
    return out, problems


def _beside(read: ReadBox, now: Box) -> Box:
    """What is defined already, without the services that the unread parts of a text may define anew."""
    if read.unread is None:
        return replace(now, services={s: now.services[s] for s in now.services.keys() & read.box.services.keys()})
    return replace(now, services={s: found for s, found in now.services.items() if s not in read.unread})


def _renewed(asked: Wanted, snapshot: HostSnapshot, removed: Iterable[str]) -> Wanted:
    """`asked`, where what is up with another definition than is wanted restarts, and what is `removed` stops.

    What is somebody else's is left: it may have been adopted since the document was checked. With a mode, what is
    neither of it nor pinned stops anyhow.
    """
    services, target = asked.services, asked.target
    own = {s: reading for s, reading in snapshot.services.items() if not reading.adopted}
    up = [s for s, reading in own.items() if reading.state in SERVING]
    again = [s for s in up if s in services and drift(services[s], own[s])]
    if target.mode is not None:
        pinned = [s for s in again if services[s].pinned]
        kept = with_needs(services, [*(member.service for member in target.members), *pinned])
        again = [s for s in again if s in kept]
    restart = tuple(dict.fromkeys((*target.restart, *again)))
    stop = tuple(s for s in removed if s in own)
    return Wanted(target.model_copy(update={"stop": stop, "restart": restart}), services)
