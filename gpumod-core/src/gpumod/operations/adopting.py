"""service adopt, service release: what somebody else set up becomes a service, and is let go again untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gpumod.domain.adopted import MANAGERS, OWN, Adopted
from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle, Sample
from gpumod.domain.service import Service
from gpumod.engine.asking import ask_supervisors
from gpumod.engine.footprints import key_of
from gpumod.engine.machine import HOSTED
from gpumod.engine.open_runs import refuse_in_use, uses_service
from gpumod.operations import containers
from gpumod.operations.adoption_params import AdoptParams, ReleaseParams
from gpumod.operations.adoption_results import AdoptResult, ReleaseResult
from gpumod.operations.base import bad_input
from gpumod.operations.modes import modes_naming, without_service
from gpumod.operations.params import ServiceRemove
from gpumod.operations.services import Services
from gpumod.operations.subjects import (
    Subject,
    gone,
    held_by,
    not_known,
    of_container,
    of_process,
    of_unit,
    refuse_boxed,
    resolve_process,
    service_fields,
    slug,
)
from gpumod.ports import HttpFailure
from gpumod.ports.foreign import Surroundings, UnitFacts

HEALTH_PATHS = ("/health", "/healthz", "/v1/models", "/")
"""Where a service of no known kind is asked how it is: the first that answers 200 is kept."""
ASK_S = 2.0
SHORT_ID = 12
"""So many digits of its id engines show of a container; no pid has as many."""


class Adopting(Services):
    async def service_adopt(self, params: AdoptParams) -> AdoptResult:
        """Make a service of a unit, a container or a process. Nothing of it is started, stopped or written."""
        subject, notes = await self._subject(params)
        snapshot = await self._seen()
        await self._refuse_adopted(subject)
        service, more = await self._as_service(subject, params, snapshot)
        notes += more
        with self._machine.store.together():
            if service.id in self._machine.store.services():
                raise UsageError(
                    "service-exists", f"there is a service {service.id!r} already", hint="give another one: --id ID"
                )
            self._check(service)
            event = self._event("service-adopted", service.id, what=str(subject.adopted))
            self._machine.store.put_service(service, event=event, user_edited=tuple(service.model_fields_set))
            self._keep_measured(service, subject, snapshot)
        footprint = self._footprint(service, snapshot)
        if footprint.vram_mb == 0 and params.vram_mb is None and not self._machine.hosts_members(service):
            notes.append(not_known(service.id))
        return AdoptResult(service=service, footprint=footprint, pids=subject.pids, notes=tuple(notes))

    async def service_release(self, params: ReleaseParams) -> ReleaseResult:
        """Forget an adopted service. What it stood for goes on, or stays down, as it is."""
        store = self._machine.store
        dead = await self._dead(store.handles().get(params.service))
        with store.together():
            service = self._service(params.service)
            if service.adopted is None:
                raise UsageError(
                    "not-adopted",
                    f"service {service.id!r} was not adopted: it is gpumod's own",
                    hint=f"gpumod service remove {service.id}",
                )
            self._removable(ServiceRemove(service=service.id, cascade=params.cascade))
            handle = store.handles().get(service.id)
            if handle is not None and handle.launched.adopted is None and handle.nonce != dead:
                raise Failed(
                    "still-running",
                    f"what gpumod started as {service.id!r}, before it was called adopted, was not stopped yet",
                    why="nobody would know its process any more",
                    hint=f"gpumod service stop {service.id}",
                )
            refuse_in_use(self._machine, f"service release {service.id}", lambda run: uses_service(run, service.id))
            modes = store.modes()
            for mode_id in modes_naming(modes, service.id):
                event = self._event("mode-edited", mode_id, removed=service.id)
                store.put_mode(without_service(modes[mode_id], service.id), event=event, user_edited=True)
            event = self._event("service-released", service.id, what=str(service.adopted))
            store.delete_handle(service.id, event=event)
            store.delete_service(service.id, event=event)
        await self._forget(service.id)  # also what was written for a process of gpumod's own, that is dead
        gone_already = await asyncio.to_thread(self._is_gone, service.adopted)
        return ReleaseResult(id=service.id, what=str(service.adopted), gone=gone_already)

    async def _dead(self, handle: Handle | None) -> str | None:
        """The nonce of what gpumod started itself, where nothing of it is left alive."""
        if handle is None or handle.launched.adopted is not None or handle.supervisor == HOSTED:
            return None
        status = (await ask_supervisors(self._machine, [handle]))[handle.service]
        return None if status.alive or status.pids else handle.nonce

    def _is_gone(self, adopted: Adopted) -> bool:
        """Whether an adopted process has ended; another one may have its number now."""
        facts = self._around().process(adopted.pid) if adopted.pid else None
        return adopted.pid is not None and (facts is None or facts.identity != adopted.identity)

    # --- what is meant ----------------------------------------------------------------------------------------------

    def _around(self) -> Surroundings:
        return self._tools.surroundings()

    async def _subject(self, params: AdoptParams) -> tuple[Subject, list[str]]:
        if params.container:
            return await asyncio.to_thread(self._container, params), []
        if params.what.isdigit() and len(params.what) < SHORT_ID:
            return await asyncio.to_thread(self._process, int(params.what))
        return await asyncio.to_thread(self._named, params), []

    def _container(self, params: AdoptParams) -> Subject:
        if params.manager:
            raise UsageError("which-kind", "a container has no manager", hint="leave out --manager, or --container")
        box = containers.find(self._machine, params.what)
        if box is None:
            none = Failed("gone", "the container engine has none of this name or id")
            raise gone(f"container {params.what}", none)
        containers.refuse(box)
        return of_container(self._around(), box)

    def _named(self, params: AdoptParams) -> Subject:
        """The unit or the container of this name. Raises UsageError where both are there: neither is guessed."""
        if params.manager or params.what.endswith(".service"):
            return self._unit_subject(params)
        box, unasked = containers.quietly(self._machine, params.what)
        try:
            unit = self._unit_subject(params)
        except UnknownName as error:
            if box is None:
                raise gone(f"unit or container {params.what}", Failed("gone", _why(error, unasked))) from error
            containers.refuse(box)
            return of_container(self._around(), box)
        if box is not None:
            raise UsageError(
                "which-kind",
                f"there are a unit {unit.what} and a container {box.name}",
                why="the one may well start the other: only one of them is to be adopted",
                hint=f"{unit.command}, or {of_container(self._around(), box).command}",
            )
        return unit

    def _unit_subject(self, params: AdoptParams) -> Subject:
        unit = self._unit_facts(params)
        if unit.name.startswith(OWN):
            raise UsageError("own-unit", f"{unit.name} is a unit of gpumod's own", why="it is managed already")
        if unit.name.startswith(MANAGERS):
            raise UsageError(
                "users-manager",
                f"{unit.name} is the systemd manager of a user, with everything that this user runs",
                why="stopping it would end all of that",
                hint="adopt the service itself: gpumod init shows what is found",
            )
        return of_unit(self._around(), unit)

    def _unit_facts(self, params: AdoptParams) -> UnitFacts:
        around = self._around()
        name = params.what if params.what.endswith(".service") else f"{params.what}.service"
        managers = (params.manager,) if params.manager else around.managers()
        found, error = [], None
        for manager in managers:
            try:
                facts = around.unit(name, manager)
            except GpumodError as refusal:
                if params.manager:
                    raise
                error = refusal
                continue
            found += [facts] if facts else []
        if not found:
            raise gone(f"unit {name}", error)
        if len(found) > 1:
            raise UsageError(
                "which-manager",
                f"both managers have a unit {name}",
                hint=f"gpumod service adopt {name} --manager user, or system",
            )
        return found[0]

    def _process(self, pid: int) -> tuple[Subject, list[str]]:
        around = self._around()
        asked = around.process(pid)
        if pid == 1:
            raise gone("service in process 1", Failed("gone", "it is the machine's first process"))
        if asked is None or pid < 1:
            raise gone(f"process {pid}", Failed("gone", "it is gone, or has no command line"))
        facts = resolve_process(self._machine, around, pid) or asked
        refuse_boxed(self._machine, of_process(facts))
        owner = around.unit_of(facts.pid)
        if owner is not None:
            unit = _quietly(around, owner[1], owner[0])
            if unit is not None and unit.main_pid == facts.pid:
                raise UsageError(
                    "is-a-unit",
                    f"process {pid} is that of the {owner[0]} unit {owner[1]}",
                    why="as a unit it can be started again, too",
                    hint=f"gpumod service adopt {owner[1]} --manager {owner[0]}",
                )
        notes = [] if facts.pid == pid else [f"process {pid} belongs to process {facts.pid}, which was adopted"]
        return of_process(facts), notes

    async def _refuse_adopted(self, subject: Subject) -> None:
        """Raise UsageError for what is a service already, or runs one."""
        for service in self._machine.store.services().values():
            if service.adopted and service.adopted.thing == subject.adopted.thing:
                raise _is_service(subject, service.id)
        statuses = await ask_supervisors(self._machine, self._machine.store.handles().values())
        for service_id, status in statuses.items():
            if set(status.pids) & set(subject.pids):
                raise _is_service(subject, service_id, runs=subject.adopted.pid not in (None, *status.pids))

    # --- what it becomes --------------------------------------------------------------------------------------------

    async def _as_service(
        self, subject: Subject, params: AdoptParams, snapshot: HostSnapshot | None, taken: Mapping[str, object] = {}
    ) -> tuple[Service, list[str]]:
        """The service, by the drivers' word and its own, and what is to be said of it. Nothing is stored."""
        held = held_by(snapshot, subject.pids)
        cards = snapshot.gpus if snapshot else ()
        ports = await asyncio.to_thread(self._around().listening, set(subject.pids)) if subject.pids else {}
        listening = {port for many in ports.values() for port in many}
        if subject.box and subject.pids:  # what listens in there is not seen from here
            listening |= {*subject.box.published.values()}
        fields, notes = service_fields(self._machine, subject, params, held, cards, listening)
        if subject.container:
            notes.append(f"it runs in a {subject.container}: its port and paths are told as they are in there")
        if subject.unseen_env:
            notes.append("its unit reads variables from a file, which are not seen: see that port and GPUs are right")
        known = {*self._machine.store.services(), *taken}
        try:
            service = Service.model_validate({**fields, "id": params.id or slug(_stem(subject, fields), known)})
        except ValidationError as error:
            raise bad_input(f"what {subject.adopted} says of itself", error, "gpumod service adopt") from error
        if subject.pids and "health_endpoint" not in fields and service.port in listening:
            service = service.model_copy(update=await self._health(service))
        self._check(service)
        return service, notes

    async def _health(self, service: Service) -> dict[str, str]:
        """The path where it answers, if its usual one does not."""
        for path in (service.health_endpoint, *HEALTH_PATHS):
            try:
                reply = await self._machine.http.request("GET", service.port or 0, path, timeout_s=ASK_S)
            except HttpFailure:
                return {}
            if reply.status == 200:
                return {"health_endpoint": path}
            if reply.status == 503:  # the path is right, and it is busy loading
                return {}
        return {}

    def _keep_measured(self, service: Service, subject: Subject, snapshot: HostSnapshot | None) -> None:
        held = sum(held_by(snapshot, subject.pids).values())
        if snapshot and held:
            key, now = key_of(service, snapshot.gpus), self._machine.clock.now()
            sample = Sample(service=service.id, key=key, at=now, kind="settled_mb", value=float(held))
            self._machine.store.add_samples([sample])


def _stem(subject: Subject, fields: Mapping[str, Any]) -> str:
    """What an id is made of: the unit's or the container's name, or of a process the model's."""
    model = fields.get("model_path") or fields.get("model_id")
    if subject.adopted.pid is None or not model:
        return subject.stem
    return str(model).rstrip("/").rpartition("/")[2].removesuffix(".gguf").lower()


def _why(error: GpumodError, unasked: ErrorInfo | None) -> str:
    return f"{error.info.why}; {unasked.message}" if unasked else f"{error.info.why}, and no container is called so"


def _quietly(around: Surroundings, name: str, manager: str) -> UnitFacts | None:
    try:
        return around.unit(name, "user" if manager == "user" else "system")
    except GpumodError:
        return None


def _is_service(subject: Subject, service: str, *, runs: bool = False) -> UsageError:
    """`runs`: it is no more than the parent of what is."""
    return UsageError(
        "adopted-already",
        f"{subject.adopted} {'runs' if runs else 'is'} service {service!r} already",
        hint=f"gpumod service show {service}",
    )
