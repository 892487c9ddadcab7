"""Services: list, show, add, edit, remove, logs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from gpumod.domain.adopted import THEIRS
from gpumod.domain.base import is_id
from gpumod.domain.errors import Failed, GpumodError, UsageError
from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Target
from gpumod.domain.secrets import discreet
from gpumod.domain.service import Service
from gpumod.domain.states import ALIVE
from gpumod.engine.change import change
from gpumod.engine.footprints import footprint, placed_on
from gpumod.engine.leftovers import keepers, leftovers, sweep_now
from gpumod.engine.observe import observe
from gpumod.engine.open_runs import refuse_in_use, uses_service
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.room import refuse_owed
from gpumod.operations.base import OnProgress, bad_input, failure_of, reporter, unknown
from gpumod.operations.differences import fields_of, in_event
from gpumod.operations.modes import modes_naming, without_service
from gpumod.operations.params import LogsParams, NoParams, ServiceRef, ServiceRemove, ServiceWrite
from gpumod.operations.results import DeletedResult, LogsResult, ServiceListResult, ServiceResult
from gpumod.operations.secrets import refuse_hidden, told_of_secrets
from gpumod.operations.units import Units
from gpumod.planner import check_needs
from gpumod.ports import Capabilities, HostsMembers
from gpumod.ports.units import Forgets, KeepsJournal, LooksAfter

NO_FIELDS = frozenset({"id", "unit_vars", "adopted"})
"""Fields of a service that are not edited as such."""


class Services(Units):
    async def service_list(self, params: NoParams) -> ServiceListResult:
        """Every definition, without the secrets among its options, and the rows that cannot be read."""
        store = self._machine.store
        services = store.services()
        shown = tuple(discreet(services[s]) for s in sorted(services))
        return ServiceListResult(services=shown, problems=store.problems())

    async def service_show(self, params: ServiceRef) -> ServiceResult:
        """A definition without the secrets among its options, what it takes and where the numbers come from."""
        service = self._service(params.service)
        return await self._shown(service, await self._seen())

    async def service_add(self, params: ServiceWrite) -> ServiceResult:
        """Define a service. Its driver checks the options; its port must be free of other definitions."""
        service = self._new(params)
        snapshot = await self._seen()
        if "vram_mb" not in params.fields and not self._machine.hosts_members(service):
            self._refuse_unsaid(service, snapshot)
        with self._machine.store.together():
            service = self._new(params)  # nobody else writes from here on
            event = self._event("service-added", service.id)
            self._machine.store.put_service(service, event=event, user_edited=tuple(service.model_fields_set))
        return await self._shown(service, snapshot)

    def _new(self, params: ServiceWrite) -> Service:
        """The definition that `params` give, checked against what is stored."""
        self._refuse_broken("services", params.id)
        if params.id in self._machine.store.services():
            raise UsageError(
                "service-exists", f"there is a service {params.id!r} already", hint=f"gpumod service edit {params.id}"
            )
        return self._validated(params, {"id": params.id}, {})

    def _refuse_unsaid(self, service: Service, snapshot: HostSnapshot | None) -> None:
        """Raise UsageError `no-vram` where nobody knows what the service takes."""
        if self._footprint(service, snapshot).vram_mb == 0:
            raise UsageError(
                "no-vram",
                f"service {service.id!r} does not say what VRAM it takes",
                why="nothing is known of it, and a plan that counts it as free would be wrong",
                hint="--vram-mb MB (0 if it uses no GPU)",
            )

    async def service_edit(self, params: ServiceWrite) -> ServiceResult:
        """Change a definition. Nothing is restarted: the result shows the drift and how to apply it."""
        store = self._machine.store
        before, snapshot = keepers(self._machine), await self._seen()
        with store.together():  # nobody else writes between what is read here and what is written
            old = self._service(params.id)
            service = self._validated(params, old.model_dump(), old.unit_vars)
            if "vram_mb" in params.unset and not self._machine.hosts_members(service):
                self._refuse_unsaid(service, snapshot)
            edited = {f for f in Service.model_fields if getattr(old, f) != getattr(service, f)}
            if edited:
                event = self._event("service-edited", service.id, **in_event(fields_of(old, service)))
                store.put_service(service, event=event, user_edited=sorted(store.user_edited(service.id) | edited))
        if keepers(self._machine) != before:
            await sweep_now(self._machine, f"service edit {service.id}")
        result = await self._shown(service, await self._seen())
        notes = (*result.notes, *_theirs(service, edited))
        return result.model_copy(update={"notes": notes})

    def _validated(self, params: ServiceWrite, base: Mapping[str, Any], options: Mapping[str, Any]) -> Service:
        """The definition that `params` give over `base`, checked by itself, by its driver and against the others."""
        given = {**params.fields, "unit_vars": dict(params.unit_vars)}
        fields = self._tools.presets().expand(given, self._machine.settings)
        set_vars = fields.pop("unit_vars")
        for name in (*fields, *(u for u in params.unset if u in Service.model_fields)):
            if name not in Service.model_fields or name in NO_FIELDS:
                raise unknown("field", name, set(Service.model_fields) - NO_FIELDS, "gpumod service add --help")
        refuse_hidden(params.id, set_vars)
        unit_vars = {**options, **set_vars}
        for name in params.unset:
            if name in Service.model_fields:
                continue
            if name not in unit_vars:
                raise unknown("option", name, unit_vars, f"gpumod service show {params.id}")
            del unit_vars[name]
        if both := sorted({*fields, *set_vars} & {*params.unset}):
            why = f"{', '.join(both)} cannot be set and unset at once"
            hint = "leave one of the two out"
            raise UsageError("set-and-unset", f"service {params.id!r} is left as it is", why=why, hint=hint)
        kept = {k: v for k, v in base.items() if k not in params.unset}
        try:
            grown = _grown(base, fields, params.unset)
            service = Service.model_validate({**kept, **grown, **fields, "unit_vars": unit_vars})
        except ValidationError as error:
            verb = "edit" if base.keys() - {"id"} else "add"
            raise bad_input(f"service {params.id!r}", error, f"gpumod service {verb}") from error
        except ValueError as error:
            raise UsageError("bad-context", str(error), hint="give it another context_size, or vram_mb") from error
        self._check(service)
        return service

    def _check(self, service: Service, services: Mapping[str, Service] | None = None) -> None:
        """What a definition must hold beside its own fields, among `services` (those that are stored)."""
        capabilities = self._capabilities(service)
        self._check_sleep(service, capabilities.sleep_levels)
        if service.run_with is not None:
            self._machine.plugins.check_supervisor(service.run_with)
        stored = self._machine.store.services() if services is None else services
        others = {s: d for s, d in stored.items() if s != service.id}
        taken = [s for s, other in others.items() if service.port is not None and other.port == service.port]
        if taken:
            raise UsageError(
                "port-conflict",
                f"port {service.port} of {service.id!r} is that of {', '.join(taken)} already",
                hint="give it another port",
            )
        known = {**others, service.id: service}
        for name in service.needs:
            self._service(name, others)
        if service.host is not None:
            owner = known[service.host]
            driver = self._machine.driver(owner)
            if not self._capabilities(owner).hosts_members:
                raise UsageError("not-a-host", f"{owner.id!r} hosts no members", why=f"its driver is {owner.driver}")
            has_file = isinstance(driver, HostsMembers) and driver.members_file(owner, (), self._machine.settings)
            if owner.adopted and has_file:
                raise UsageError("not-a-host", f"{owner.id!r} hosts no members", why="it was adopted: its files stay")
        elif service.port is None and not capabilities.hosts_members:
            raise UsageError("no-port", f"service {service.id!r} has no port", hint="--port N")
        check_needs(known, [service.id])

    def _capabilities(self, service: Service) -> Capabilities:
        """What its driver can do for it. Raises UsageError (`bad-options`) for a definition that it does not take: one
        that it took before an upgrade, say."""
        try:
            self._machine.check(service)
        except ValueError as error:
            raise UsageError(
                "bad-options",
                f"driver {service.driver} refuses service {service.id!r}",
                why=str(error),
                hint="the driver's options are given by --set KEY=VALUE, those of every service (port, model ...) by"
                " options like --port; see gpumod service add --help and docs/presets.md",
            ) from error
        return self._machine.driver(service).capabilities(service)

    def _check_sleep(self, service: Service, levels: Collection[str]) -> None:
        """Raise UsageError where the driver does not sleep at this level, or not with the service's other options."""
        if not service.supports_sleep:
            return
        self._machine.strategy(service)
        if service.sleep_mode not in levels:
            raise UsageError(
                "bad-sleep-mode",
                f"service {service.id!r} cannot sleep at level {service.sleep_mode!r}",
                why=f"as it is defined, its driver {service.driver} can put it to sleep at: "
                + (", ".join(levels) or "no level"),
                hint=f"set sleep_mode to {' or '.join((*levels, 'none'))}",
            )

    async def service_remove(self, params: ServiceRemove, progress: OnProgress = None) -> DeletedResult:
        """Remove a definition, with its logs and measurements kept. One that runs is stopped first if asked for."""
        store = self._machine.store
        if self._broken("services", params.service):
            await self._end_broken(params, progress)
            return await self._delete(params)
        if params.service not in store.services() and self._broken("handles", params.service):
            if params.service not in store.handles():  # nothing is left by which its process could be found
                store.delete_handle(params.service, event=self._event("handle-removed", params.service))
            else:
                launched = store.handles()[params.service].launched
                await self._stop(launched, {launched.id: launched, **store.services()}, progress, alive=params.stop)
            return DeletedResult(kind="handle", id=params.service)
        service = self._removable(params)
        if service.adopted:
            raise Failed(
                "adopted",
                f"service {service.id!r} was adopted: removing would stop what is somebody else's",
                hint=f"gpumod service release {service.id}",
            )
        if service.id in store.handles():
            await self._stop(service, store.services(), progress, alive=params.stop)
        return await self._delete(params)

    async def _end_broken(self, params: ServiceRemove, progress: OnProgress) -> None:
        """Stop what runs of a service whose definition cannot be read; what somebody else set up is let go instead."""
        self._refuse_named(params)
        store = self._machine.store
        handle = store.handles().get(params.service)
        if handle is None:
            return
        if handle.launched.adopted:
            store.delete_handle(params.service, event=self._event("handle-removed", params.service))
        else:
            known = {handle.service: handle.launched, **store.services()}
            await self._stop(handle.launched, known, progress, alive=params.stop)

    def _removable(self, params: ServiceRemove) -> Service:
        """The service to remove; raise where :meth:`_refuse_named` does."""
        service = self._service(params.service)
        self._refuse_named(params)
        return service

    def _refuse_named(self, params: ServiceRemove) -> None:
        """Raise where another service or a mode still names it, or a lease is to bring it back."""
        store = self._machine.store
        dependents = sorted(s for s, other in store.services().items() if params.service in other.needs)
        if dependents:
            first = dependents[0]
            lives_in_it = store.services()[first].host == params.service
            edit = "--host-service ANOTHER" if lives_in_it else "--unset depends_on"
            raise Failed(
                "has-dependents",
                f"{', '.join(dependents)} need{'' if dependents[1:] else 's'} {params.service!r}",
                why=f"{first} {'lives in it' if lives_in_it else 'names it in depends_on'}",
                hint=f"gpumod service edit {first} {edit}, or remove them first",
            )
        named = modes_naming(store.modes(), params.service)
        if named and not params.cascade:
            raise Failed(
                "in-modes",
                f"service {params.service!r} belongs to mode {', '.join(named)}",
                hint="--cascade takes it out of them too",
            )
        refuse_owed(self._machine, [params.service])

    async def _delete(self, params: ServiceRemove) -> DeletedResult:
        """Delete the definition, out of the modes too. It is checked again: things may have changed since."""
        store, service = self._machine.store, params.service
        with store.together():
            self._refuse_named(params)
            refuse_in_use(self._machine, f"service remove {service}", lambda run: uses_service(run, service))
            if service in store.handles():
                raise _still_running(service, "it was started again meanwhile")
            modes = store.modes()
            for mode_id in modes_naming(modes, service):
                event = self._event("mode-edited", mode_id, removed=service)
                store.put_mode(without_service(modes[mode_id], service), event=event, user_edited=True)
            store.delete_service(service, event=self._event("service-removed", service))
        # for a row that was edited to have a name that no service can have nothing was ever written
        notes = await self._forget(service) if is_id(service) else ()
        return DeletedResult(kind="service", id=service, notes=notes)

    async def _forget(self, service: str) -> tuple[str, ...]:
        """Remove what was written for a service: units of whatever supervisor, and its secrets. Tells what is left."""
        self._machine.secrets.forget(service)
        for name in self._machine.plugins.supervisors.names():
            with suppress(GpumodError):  # a supervisor that is not here wrote nothing
                supervisor = self._machine.supervisor(name)
                if isinstance(supervisor, Forgets):
                    await supervisor.forget(service)
        still = await asyncio.to_thread(leftovers, self._machine)
        return tuple(f"{left.message} ({left.hint})" for left in still if left.service == service)

    async def _stop(
        self, service: Service, services: Mapping[str, Service], progress: OnProgress, *, alive: bool
    ) -> None:
        """Stop it by a plan, also what is left of one that failed; one that is up only where `alive` allows it."""

        def build(snapshot: HostSnapshot) -> Wanted:
            if not alive and snapshot.reading(service.id).state in ALIVE:
                raise _still_running(service.id)
            return Wanted(Target(stop=(service.id,), stop_others=False), services)

        command = f"service remove {service.id}"
        outcome = await change(self._machine, command, build, Options(), reporter(progress))
        if outcome.error is not None:
            raise failure_of(outcome)

    async def service_logs(self, params: LogsParams) -> LogsResult:
        """The last lines of the present or last run; a member's are its host's."""
        store = self._machine.store
        handle = store.handles().get(params.service)
        service = handle.launched if handle else self._service(params.service)
        owner = service.host or service.id
        keeper = store.handles().get(owner)
        name = keeper.supervisor if keeper else self._machine.supervisor_name(self._service(owner))
        supervisor = self._machine.supervisor(name)
        if keeper and isinstance(supervisor, LooksAfter):
            supervisor.meet(keeper)
        path = supervisor.log_path(owner)
        return LogsResult(
            service=service.id,
            lines=supervisor.logs(owner, params.lines),
            path=str(path) if path else None,
            follow=supervisor.follow_command(owner, params.lines) if isinstance(supervisor, KeepsJournal) else (),
        )

    async def _seen(self) -> HostSnapshot | None:
        """What is now; None on a machine without a GPU, which still shows its definitions."""
        try:
            return await observe(self._machine)
        except GpumodError:
            return None

    def _footprint(self, service: Service, snapshot: HostSnapshot | None) -> Footprint:
        gpus = snapshot.gpus if snapshot else ()
        seat = placed_on(snapshot, service.id) if snapshot else ()
        return footprint(self._machine, service, gpus, self._machine.store.samples(), seat)

    async def _shown(self, service: Service, snapshot: HostSnapshot | None) -> ServiceResult:
        store = self._machine.store
        differs = await self._drift(service, store.handles().get(service.id), snapshot) if snapshot else ()
        return ServiceResult(
            service=discreet(service),
            footprint=self._footprint(service, snapshot),
            edited=tuple(sorted(store.user_edited(service.id))),
            modes=modes_naming(store.modes(), service.id),
            drift=differs,
            altered=snapshot.reading(service.id).altered if snapshot and differs else "",
            apply=f"gpumod service restart {service.id}" if differs else "",
            notes=(*_notes(service, snapshot), *told_of_secrets(service)),
        )


def _still_running(service: str, why: str = "") -> Failed:
    hint = f"gpumod service stop {service}, or --stop"
    return Failed("still-running", f"service {service!r} is running", why=why, hint=hint)


def _notes(service: Service, snapshot: HostSnapshot | None) -> tuple[str, ...]:
    """What keeps a definition from being of use here, where it may be meant for another machine."""
    if snapshot is None or service.gpus == "any":
        return ()
    here = [gpu.index for gpu in snapshot.gpus]
    missing = ", ".join(str(index) for index in service.gpus if index not in here)
    has = f"GPU {', '.join(map(str, here))}" if here else "none"
    return (f"it cannot start on this machine, which has no GPU {missing} (it has {has})",) if missing else ()


def _theirs(service: Service, edited: Collection[str]) -> tuple[str, ...]:
    """What an edit of what somebody else set up does not do."""
    fields = [field for field in THEIRS if field in edited]
    if service.adopted is None or not fields:
        return ()
    told = f"the {' and '.join(fields)} of the {service.adopted} stays as whoever set it up made it"
    asked = f"gpumod service status {service.id} tells whether it answers on port {service.port}"
    return (f"{told}: the edit only tells gpumod of it; {asked}",)


def _grown(base: Mapping[str, Any], fields: Mapping[str, Any], unset: Collection[str]) -> dict[str, Any]:
    """What another context makes of the memory that `base` declares, where the edit itself does not say.

    Raises ValueError for values that no service may have, and for more memory than any card has.
    """
    cost = None if "kv_cache_per_1k" in unset else fields.get("kv_cache_per_1k", base.get("kv_cache_per_1k"))
    said = "vram_mb" in fields or "vram_mb" in unset
    if said or not cost or not base.get("context_size") or fields.get("context_size") is None:
        return {}
    asked = Service.model_validate({**base, "kv_cache_per_1k": cost, "context_size": fields["context_size"]})
    before = asked.model_copy(update={"context_size": base["context_size"]})
    grown = before.with_context(asked.context_size or 1)
    return {name: getattr(grown, name) for name in ("vram_mb", "start_peak_mb", "asleep_mb") if name not in unset}
