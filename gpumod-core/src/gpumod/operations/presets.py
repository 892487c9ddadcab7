"""Presets: list, show, load, validate. Presets define, the database holds: loading never deletes anything."""

from __future__ import annotations

from pathlib import Path

from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.mode import Mode
from gpumod.domain.presets import PresetCatalogue, PresetEntry
from gpumod.domain.service import Service
from gpumod.engine.leftovers import keepers, sweep_now
from gpumod.operations.base import Base, unknown
from gpumod.operations.params import NoParams, PresetLoad, PresetRef, PresetValidate
from gpumod.operations.results import (
    PresetListResult,
    PresetLoadResult,
    PresetResult,
    PresetRow,
    PresetValidateResult,
)
from gpumod.ports import Store


class Presets(Base):
    async def preset_list(self, params: NoParams) -> PresetListResult:
        """Every preset that is offered, and whether it is loaded and edited."""
        store = self._machine.store
        catalogue = self._catalogue(None)
        services, modes = store.services(), store.modes()
        rows = [
            PresetRow(
                id=s,
                kind="service",
                name=found.value.title,
                source=str(found.path),
                distribution=found.distribution,
                loaded=s in services,
                edited=tuple(sorted(store.user_edited(s))) if s in services else (),
            )
            for s, found in catalogue.services.items()
        ]
        rows += [
            PresetRow(
                id=m,
                kind="mode",
                name=entry.value.name or m,
                source=str(entry.path),
                distribution=entry.distribution,
                loaded=m in modes,
                edited=("members",) if m in modes and store.mode_user_edited(m) else (),
            )
            for m, entry in catalogue.modes.items()
        ]
        return PresetListResult(presets=tuple(rows), problems=catalogue.problems)

    async def preset_show(self, params: PresetRef) -> PresetResult:
        """One preset as YAML, with what its file leaves out filled in."""
        catalogue = self._catalogue(None)
        if params.kind != "mode" and params.preset in catalogue.services:
            service = catalogue.services[params.preset]
            text = self._tools.presets().dump_service(service.value)
            return PresetResult(id=params.preset, kind="service", source=str(service.path), yaml=text)
        if params.kind != "service" and params.preset in catalogue.modes:
            mode = catalogue.modes[params.preset]
            text = self._tools.presets().dump_mode(mode.value)
            return PresetResult(id=params.preset, kind="mode", source=str(mode.path), yaml=text)
        raise unknown("preset", params.preset, {*catalogue.services, *catalogue.modes}, "gpumod preset list")

    async def preset_load(self, params: PresetLoad) -> PresetLoadResult:
        """Load presets into the database. Fields that the user edited are kept unless `update`; nothing is deleted.

        Raises Failed `bad-preset-folder` where `folder` is none, or holds none.
        """
        catalogue = self._catalogue(Path(params.folder) if params.folder is not None else None)
        if params.folder is not None and not catalogue.services and not catalogue.modes and catalogue.problems:
            first = catalogue.problems[0]
            if first.code == "bad-preset-folder":
                raise Failed(first.code, first.message, why="nothing was loaded", hint="name a folder of preset files")
        for wanted in params.ids:
            if wanted not in catalogue.services and wanted not in catalogue.modes:
                raise unknown("preset", wanted, {*catalogue.services, *catalogue.modes}, "gpumod preset list")
        chosen = set(params.ids) or {*catalogue.services, *catalogue.modes}
        before = keepers(self._machine)
        with self._machine.store.together():  # nobody edits between what is read here and what is written
            loaded = _Loaded(self._machine.store)
            for name, preset in catalogue.services.items():
                if name in chosen:
                    self._load_service(preset, params.update, loaded)
            for name, entry in catalogue.modes.items():
                if name in chosen:
                    self._load_mode(entry, params.update, loaded)
        if any(keeper != before[s] for s, keeper in keepers(self._machine).items() if s in before):
            await sweep_now(self._machine, "preset load")
        return PresetLoadResult(
            added=tuple(loaded.added),
            updated=tuple(loaded.updated),
            unchanged=tuple(loaded.unchanged),
            kept=loaded.kept,
            problems=(*catalogue.problems, *loaded.problems),
        )

    def _load_service(self, preset: PresetEntry[Service], update: bool, loaded: _Loaded) -> None:
        store = self._machine.store
        old = loaded.services.get(preset.value.id)
        broken = loaded.broken.get(("services", preset.value.id)) if old is None and not update else None
        if broken is not None:
            loaded.problems.append(broken)
            return
        edited = store.user_edited(preset.value.id) if old else frozenset()
        new, kept = self._tools.presets().merge(old, preset.value, edited, update)
        try:
            self._machine.check(new)
        except UnknownName as error:  # a driver that is not installed: the definition is kept, it just cannot start
            told = _refused(preset, error)
            message = f"{new.id} is loaded, but cannot start yet: {told.message}"
            loaded.problems.append(told.model_copy(update={"message": message}))
        except (GpumodError, ValueError) as error:
            loaded.problems.append(_refused(preset, error))
            return
        taken = [s for s, other in loaded.services.items() if s != new.id and new.port and other.port == new.port]
        if taken and (old is None or old.port != new.port):
            said = f"port {new.port} of {new.id!r} is that of {', '.join(taken)} already"
            refused = UsageError("port-conflict", said, why="it was not loaded", hint="give one of them another port")
            loaded.problems.append(_refused(preset, refused))
            return
        if kept:
            loaded.kept[new.id] = kept
        if new == old:
            loaded.unchanged.append(new.id)
            return
        event = self._event("preset-loaded", new.id, source=str(preset.path))
        theirs = [f for f in sorted(edited) if getattr(new, f, None) != getattr(preset.value, f, None)]
        store.put_service(new, event=event, user_edited=() if update else theirs)
        loaded.services[new.id] = new
        (loaded.updated if old else loaded.added).append(new.id)

    def _load_mode(self, preset: PresetEntry[Mode], update: bool, loaded: _Loaded) -> None:
        store, mode = self._machine.store, preset.value
        broken = loaded.broken.get(("modes", mode.id))
        if broken is not None and not update:
            loaded.problems.append(broken)
            return
        missing = [s for s in mode.services if s not in loaded.services]
        if missing:
            loaded.problems.append(
                ErrorInfo(
                    code="unknown-service",
                    message=f"mode {mode.id!r} was not loaded: it names {', '.join(missing)}",
                    why="no such service is defined",
                    hint="load their presets too",
                    details={"preset": mode.id, "file": str(preset.path)},
                )
            )
            return
        old = loaded.modes.get(mode.id)
        if old == mode:
            loaded.unchanged.append(mode.id)
        elif old is not None and store.mode_user_edited(mode.id) and not update:
            loaded.kept[mode.id] = ("members",)
            loaded.unchanged.append(mode.id)
        else:
            store.put_mode(mode, event=self._event("preset-loaded", mode.id, source=str(preset.path)))
            (loaded.updated if old else loaded.added).append(mode.id)

    async def preset_validate(self, params: PresetValidate) -> PresetValidateResult:
        """Check preset files, their driver's options too, without loading them."""
        named = [("", Path(path)) for path in params.paths]
        catalogue = self._tools.presets().load(named, self._machine.settings) if named else self._catalogue(None)
        problems = list(catalogue.problems)
        for service in catalogue.services.values():
            try:
                self._machine.check(service.value)
            except (GpumodError, ValueError) as error:
                problems.append(_refused(service, error))
        files = {str(entry.path) for entry in catalogue.services.values()}
        files |= {str(entry.path) for entry in catalogue.modes.values()}
        files |= {p.details["file"] for p in catalogue.problems if p.code != "bad-preset-folder"}
        return PresetValidateResult(ok=not problems, checked=len(files), problems=tuple(problems))

    def _catalogue(self, folder: Path | None) -> PresetCatalogue:
        """The presets of one folder, or of every folder offered and the home's own, which wins."""
        if folder is not None:
            return self._tools.presets().load([(str(folder), folder)], self._machine.settings)
        own = self._machine.home / "presets"
        folders = [("this home", own)] if own.is_dir() else []
        folders += [(offer.name, offer.folder) for offer in self._machine.plugins.presets]
        return self._tools.presets().load(folders, self._machine.settings)


def _refused(preset: PresetEntry[Service], error: GpumodError | ValueError) -> ErrorInfo:
    """Why a driver refuses a preset, with the file that defines it."""
    known = error.info if isinstance(error, GpumodError) else None
    return ErrorInfo(
        code=known.code if known else "bad-options",
        message=f"{preset.path}: {error}",
        why=(known.why if known else "") or f"driver {preset.value.driver} refuses it",
        hint=(known.hint if known else "") or "docs/presets.md explains every key",
        details={"preset": preset.value.id, "file": str(preset.path)},
    )


class _Loaded:
    """What was there, and what a load did so far."""

    def __init__(self, store: Store) -> None:
        self.services = dict(store.services())
        self.modes = store.modes()
        self.broken = {(info.details["table"], info.details["row"]): info for info in store.problems()}
        self.added: list[str] = []
        self.updated: list[str] = []
        self.unchanged: list[str] = []
        self.kept: dict[str, tuple[str, ...]] = {}
        self.problems: list[ErrorInfo] = []
