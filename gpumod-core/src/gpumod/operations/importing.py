"""import llama-swap, import ollama: what another manager runs, as services."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from gpumod.domain.errors import ErrorInfo, GpumodError, MachineLacks, UsageError
from gpumod.domain.machine import HostSnapshot, PortUser
from gpumod.domain.secrets import discreet
from gpumod.domain.service import Service
from gpumod.operations import containers
from gpumod.operations.adopting import Adopting
from gpumod.operations.adoption_params import AdoptParams, ImportFile, ImportOllama
from gpumod.operations.adoption_results import ImportResult, ImportRow
from gpumod.operations.base import bad_input
from gpumod.operations.llama_swap import PORT, SwapModel, models_of
from gpumod.operations.secrets import told_of_secrets
from gpumod.operations.subjects import Subject, not_known, of_container, read, slug
from gpumod.plugins.commands import CONTAINERS, gpus_in, words_from
from gpumod.plugins.kit import is_denied
from gpumod.ports import HttpFailure
from gpumod.ports.commands import CommandLine
from gpumod.ports.foreign import ContainerFacts

MIB = 1024 * 1024
ASK_S = 5.0
OLLAMA = "ollama"
UNIT = "ollama.service"
_MOST = "its largest model, or what it has loaded now"
SWAPPING = ("groups", "matrix")
PLACES = frozenset({"OLLAMA_HOST", "LLAMA_ARG_HOST", "LLAMA_ARG_PORT"})
"""Variables that say where a runtime serves, which is gpumod's to say."""


class Importing(Adopting):
    async def import_llama_swap(self, params: ImportFile) -> ImportResult:
        """A service of gpumod's own for each model that llama-swap would start. The file is only read."""
        path = Path(params.file).expanduser().absolute()
        config = await asyncio.to_thread(self._around().config, path)
        models = models_of(config, os.environ)
        notes = [
            f"{key}: say which may run together by modes: gpumod mode create" for key in SWAPPING if config.get(key)
        ]
        rows: list[ImportRow] = []
        names = _ids(models)
        taken = {m.port: names[m.name] for m in models if m.port and not m.counted and not m.problem}
        taken |= {s.port: s.id for s in self._machine.store.services().values() if s.port}
        for model in models:
            row = self._model_row(model, names[model.name], path.parent, taken, params)
            if row.service and row.service.port:
                taken[row.service.port] = row.id
            rows.append(row)
        shown = tuple(map(_shown, rows))
        return ImportResult(source=str(path), rows=shown, notes=tuple(notes), dry_run=params.dry_run)

    def _model_row(
        self, model: SwapModel, service_id: str, folder: Path, taken: Mapping[int, str], params: ImportFile
    ) -> ImportRow:
        try:
            service, notes = self._of_model(model, service_id, folder, taken)
        except GpumodError as error:
            return ImportRow(name=model.name, id=service_id, action="skipped", why=_why(error.info))
        row = self._put(ImportRow(name=model.name, id=service_id, action="added", service=service), service, params)
        told = row.action not in ("kept", "skipped")  # else the notes are of a service that nobody has
        return row.model_copy(update={"notes": notes}) if told else row

    def _put(self, row: ImportRow, service: Service, params: ImportFile) -> ImportRow:
        """Store it, where that is wanted; a service that is there stays unless it is to be updated."""
        store = self._machine.store
        with store.together():
            there = store.services().get(service.id)
            if there == service:
                return row.model_copy(update={"action": "unchanged"})
            if there and (there.adopted or not params.update):
                why = "it was adopted" if there.adopted else "a service of this id is there; --update replaces it"
                return row.model_copy(update={"action": "kept", "why": why})
            try:
                self._check(service)
            except GpumodError as error:
                return row.model_copy(update={"action": "skipped", "why": _why(error.info), "service": None})
            if not params.dry_run:
                event = self._event("service-imported", service.id, name=row.name)
                store.put_service(service, event=event, user_edited=tuple(service.model_fields_set))
        return row.model_copy(update={"action": "updated" if there else "added"})

    def _of_model(
        self, model: SwapModel, service_id: str, folder: Path, taken: Mapping[int, str]
    ) -> tuple[Service, tuple[str, ...]]:
        """The service that starts what llama-swap would start. Raises UsageError."""
        if model.problem:
            raise UsageError("bad-model", model.problem)
        if PurePosixPath(model.words[0]).name in CONTAINERS:
            raise UsageError("container", "it starts a container")
        port = model.port
        if model.counted and port is not None:
            first = port
            port = next((n for n in range(first, 65536) if taken.get(n, service_id) == service_id), None)
            if port is None:
                why = f"counted from {first} on, there is none up to 65535"
                raise UsageError("no-port", "no port is left for it", why=why, hint="startPort: 5800")
        given = {name: value.replace(PORT, str(port)) for name, value in (model.env or {}).items()}
        found = read(self._machine, [CommandLine(argv=model.at(port), env=given, cwd=str(folder))])
        if found is None:
            raise UsageError("not-recognised", "no driver knows its command", hint='pip install "gpumod[all]"')
        driver, told = found
        fields: dict[str, Any] = {**told.fields, "id": service_id, "name": model.title or model.name, "driver": driver}
        fields |= {"port": port or fields.get("port"), "startup_timeout": model.timeout_s}
        fields |= {"health_endpoint": model.health} if model.health else {}
        env, refused = _environment(given)
        fields["unit_vars"] = {**fields["unit_vars"], **({"env": env} if env else {})}
        notes = [*model.notes, *told.notes, *([f"variables left out: {', '.join(refused)}"] if refused else [])]
        if said := fields.get("model_path"):
            size_mb = self._around().size_mb(Path(said))
            fields["vram_mb"] = size_mb or 0
            notes += [f"{size_mb} MiB is what its file holds: the cache comes on top"] if size_mb else []
        try:
            service = Service.model_validate(fields)
        except ValidationError as error:
            raise bad_input("it", error, "gpumod service add") from error
        if self._footprint(service, None).vram_mb == 0 and "gpu_memory_utilization" not in service.unit_vars:
            notes.append(not_known(service.id))
        return service, (*notes, *told_of_secrets(service))

    async def import_ollama(self, params: ImportOllama) -> ImportResult:
        """Adopt the ollama that answers here, as one service: it loads and unloads its models by itself."""
        source = f"http://127.0.0.1:{params.port}"
        models = await self._ollama(params.port, "/api/tags")
        loaded = {m["name"]: m for m in await self._ollama(params.port, "/api/ps") if "name" in m}
        local = {m["name"]: m for m in models if "name" in m and not m.get("remote_host")}
        largest_mb = max((_mb(model, "size") for model in local.values()), default=0)
        now_mb = sum(_mb(model, "size_vram") for model in loaded.values())
        notes = [f"{name}: {_mb(model, 'size')} MiB" + _loaded(loaded.get(name)) for name, model in local.items()]
        who = await asyncio.to_thread(self._who_serves, params.port)
        wanted_mb = max(largest_mb, now_mb)
        asked = AdoptParams(**who, id=params.id, port=params.port, vram_mb=wanted_mb)
        row = ImportRow(name="ollama", id=params.id, action="added")
        there = self._machine.store.services().get(params.id)
        if there and not (params.update and there.adopted):
            why = "a service of this id is there" + ("; --update replaces it" if there.adopted else "")
            row = row.model_copy(update={"action": "kept", "why": why, "service": there})
        else:
            row = await self._adopt_ollama(row, asked, there, dry_run=params.dry_run)
        if row.action == "kept" and there:
            said = self._as_it_was(there, await self._seen(), wanted_mb)
        else:
            said = f"{wanted_mb} MiB are counted: {_MOST}" if wanted_mb else not_known(params.id)
        return ImportResult(source=source, rows=(_shown(row),), notes=(*notes, said), dry_run=params.dry_run)

    def _as_it_was(self, there: Service, snapshot: HostSnapshot | None, wanted_mb: int) -> str:
        """What is counted for a service that is left as it is, and what might be."""
        counted_mb = self._footprint(there, snapshot).vram_mb
        said = f"{there.id} is left as it is, and {counted_mb} MiB are counted for it"
        if counted_mb >= wanted_mb:
            return said
        edit = f"gpumod service edit {there.id} --vram-mb {wanted_mb}"
        return f"{said}; {_MOST}, takes {wanted_mb} MiB: {edit}"

    async def _adopt_ollama(
        self, row: ImportRow, asked: AdoptParams, there: Service | None, *, dry_run: bool
    ) -> ImportRow:
        subject, notes = await self._subject(asked)
        if there is None:
            await self._refuse_adopted(subject)
        if not subject.pids or not any(words_from(command.argv, OLLAMA) for command in subject.commands):
            raise _not_itself(asked, subject)
        if asked.what == UNIT and (port := self._elsewhere(subject, asked.port)):
            raise _not_itself(asked, subject, port)
        snapshot = await self._seen()
        service, more = await self._as_service(subject, asked, snapshot)
        action = "unchanged" if service == there else "updated" if there else "added"
        if not dry_run and action != "unchanged":
            with self._machine.store.together():
                self._check(service)
                event = self._event("service-adopted", service.id, what=str(subject.adopted))
                self._machine.store.put_service(service, event=event, user_edited=tuple(service.model_fields_set))
        return row.model_copy(update={"action": action, "service": service, "notes": (*notes, *more)})

    async def _ollama(self, port: int, path: str) -> list[dict[str, Any]]:
        """The models that it tells of. Raises MachineLacks `no-ollama`."""
        hint = "start it, or say where it answers: gpumod import ollama --port N"
        try:
            reply = await self._machine.http.request("GET", port, path, timeout_s=ASK_S)
        except HttpFailure as failure:
            raise MachineLacks(
                "no-ollama", f"no ollama answers on port {port}", why=str(failure), hint=hint
            ) from failure
        models = reply.json_body.get("models") if isinstance(reply.json_body, dict) else None
        if not reply.ok or not isinstance(models, list):
            why = f"{path} answered {reply.status} {reply.text[:80]!r}"
            raise MachineLacks("no-ollama", f"what answers on port {port} is no ollama", why=why, hint=hint)
        return [model for model in models if isinstance(model, dict)]

    def _who_serves(self, port: int) -> dict[str, Any]:
        """What to adopt: the container, unit or process behind a port; else a unit called ollama."""
        user = self._machine.local.port_users([port]).get(port)
        boxes = containers.up(self._machine, [])
        if (box := next((box for box in boxes if self._serves(box, port, user)), None)) is not None:
            return {"what": box.name, "container": True}
        if user and user.pid:
            owner = self._around().unit_of(user.pid)
            unit = self._around().unit(owner[1], owner[0]) if owner else None
            if owner and unit and user.pid in unit.pids and unit.main_pid:
                main = self._around().chain(user.pid)
                if any(facts.pid == unit.main_pid for facts in main):
                    return {"what": owner[1], "manager": owner[0]}
            return {"what": str(user.pid)}
        return {"what": UNIT}

    def _elsewhere(self, subject: Subject, port: int | None) -> int | None:
        """The other port on which the unit, which was guessed, is told to serve, if somebody does there."""
        told = None if subject.unseen_env else read(self._machine, subject.commands, OLLAMA)
        said = told[1].fields.get("port") if told else None
        return said if isinstance(said, int) and said != port and self._machine.local.port_users([said]) else None

    def _serves(self, box: ContainerFacts, port: int, user: PortUser | None) -> bool:
        """Whether `box` answers on `port` of this machine, on which `user` listens: who that is need not be told."""
        if not box.shares_network:
            return port in box.published.values()
        if user and user.pid:
            return user.pid in box.pids
        found = read(self._machine, of_container(self._around(), box).commands, OLLAMA)
        return found is not None and found[1].fields.get("port") == port


def _not_itself(asked: AdoptParams, subject: Subject, port: int | None = None) -> UsageError:
    words = " ".join(subject.commands[0].argv[:3]) if subject.pids and subject.commands else ""
    what = f"it serves on port {port}" if port else f"it runs {words:.100}" if words else "it is down"
    return UsageError(
        "not-itself",
        f"an ollama answers on port {asked.port}, and {subject.adopted} is not it",
        why=f"{what}, so the ollama is in a container, or behind a proxy",
        hint="leave it to what keeps it; or run ollama on this machine itself, and import that",
    )


def _shown(row: ImportRow) -> ImportRow:
    return row.model_copy(update={"service": row.service and discreet(row.service)})


def _ids(models: Iterable[SwapModel]) -> dict[str, str]:
    found: dict[str, str] = {}
    for model in models:
        found[model.name] = slug(model.name, set(found.values()))
    return found


def _environment(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The variables that a service may be given, and the names of the others; the GPUs are a field of their own."""
    kept = {k: v for k, v in env.items() if not is_denied(k) and k not in PLACES}
    told = {"CUDA_VISIBLE_DEVICES"} if gpus_in(env) is not None else set()
    return kept, sorted(set(env) - set(kept) - told)


def _loaded(model: Mapping[str, Any] | None) -> str:
    return f", loaded ({_mb(model, 'size_vram')} MiB)" if model else ""


def _mb(model: Mapping[str, Any], key: str) -> int:
    size = model.get(key)
    return -(-size // MIB) if isinstance(size, int) else 0


def _why(info: ErrorInfo) -> str:
    return f"{info.message}: {info.why}" if info.why else info.message
