"""A box as one YAML document: services and modes in the words of presets, and the settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from gpumod.adapters.presets.dump import mode_keys, service_keys, to_yaml
from gpumod.adapters.presets.expand import BadPath, expand_paths, variables
from gpumod.adapters.presets.problems import BAD_PRESET, from_validation, problem
from gpumod.adapters.presets.schema import ModePreset, read_service
from gpumod.adapters.presets.strict_yaml import BadYaml, Document, Loc, parse_document
from gpumod.adapters.settings import check_setting
from gpumod.domain.box import Box, ReadBox
from gpumod.domain.errors import ErrorInfo, GpumodError, UsageError
from gpumod.domain.mode import Mode
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

VERSION = 1
KEYS = ("version", "settings", "services", "modes")
STDIN = "stdin"
"""What messages call a document that has no file."""

T = TypeVar("T", Service, Mode)


def dump_box(box: Box) -> str:
    """YAML of `box`, always in the same order: by id, keys as their models have them, options by name."""
    typed = Settings.model_validate(dict(box.settings))
    said = {key: getattr(typed, key) for key in Settings.model_fields if box.settings.get(key) is not None}
    parts = {
        "settings": said,
        "services": [_in_order(service_keys(box.services[s])) for s in sorted(box.services)],
        "modes": [mode_keys(box.modes[m]) for m in sorted(box.modes)],
    }
    return to_yaml({"version": VERSION, **{key: part for key, part in parts.items() if part}})


def _in_order(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: _sorted(value) if key == "unit_vars" else value for key, value in keys.items()}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def read_box(text: str, source: str, settings: Settings) -> ReadBox:
    """The box that `text` says, with every problem and its line; `source` names it there. Variables in paths are those
    of its own settings.

    Raises UsageError where nothing can be read: `bad-box`, `box-version` for a version of its own.
    """
    where = Path(source)
    try:
        document = parse_document(text)
    except BadYaml as error:
        raise bad_box(source, [problem(where, str(error), line=error.line)]) from error
    _check_version(where, document)
    problems = [
        problem(where, f"is unknown: known are {', '.join(KEYS)}", line=document.line_of((key,)), field=key)
        for key in document.data
        if key not in KEYS
    ]
    said = _settings(where, document, problems)
    known = variables(_with(settings, said))
    services = _entries(where, document, "service", known, problems, Service)
    modes = _entries(where, document, "mode", known, problems, Mode)
    return ReadBox(Box(services, modes, said), tuple(problems), _unread(document, services))


def _unread(document: Document, services: Mapping[str, Service]) -> frozenset[str] | None:
    """As in :class:`ReadBox`; an unknown section may be a misspelt one."""
    given = document.data.get("services") or []
    if not isinstance(given, list) or any(key not in KEYS for key in document.data):
        return None
    ids = [entry.get("id") if isinstance(entry, Mapping) else None for entry in given]
    named = [name for name in ids if isinstance(name, str)]
    return frozenset(named) - services.keys() if len(named) == len(ids) else None


def bad_box(source: str, problems: list[ErrorInfo]) -> UsageError:
    """One error for all problems of a box."""
    lines = list(dict.fromkeys(info.message for info in problems))
    more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
    own = next((info.hint for info in problems if len(lines) == 1 and info.code != BAD_PRESET), "")
    file = "-" if source == STDIN else shlex.quote(source)
    hint = own or f"`gpumod diff -f {file}` checks it again; docs/presets.md explains every key"
    return UsageError(
        "bad-box",
        f"{source} is not right: {len(lines)} problem{'' if len(lines) == 1 else 's'}, and nothing was changed",
        why="\n".join([*lines[:20], *more]),
        hint=hint,
        problems=[info.model_dump(mode="json") for info in problems],
    )


def _check_version(where: Path, document: Document) -> None:
    said = document.data.get("version")
    if type(said) is int and said == VERSION:
        return
    line = document.line_of(("version",)) if "version" in document.data else None
    told = f"is {said!r:.40}" if "version" in document.data else "is missing"
    hint = "upgrade gpumod, or write the file anew with `gpumod export`"
    if said is None or str(said) == str(VERSION):
        hint = f"version: {VERSION}, without quotes"
    if "id" in document.data:
        folder = "FOLDER" if str(where) == STDIN else shlex.quote(str(where.parent))
        hint = f"it looks like a preset: `gpumod preset load --folder {folder}` loads those of a folder"
    raise UsageError(
        "box-version",
        problem(where, told, line=line, field="version").message,
        why=f"this gpumod reads version {VERSION}",
        hint=hint,
    )


def _settings(where: Path, document: Document, problems: list[ErrorInfo]) -> dict[str, str | None]:
    given = document.data.get("settings")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(_at(where, document, ("settings",), "must be a mapping of settings to values"))
        return {}
    out: dict[str, str | None] = {}
    for key, value in given.items():
        if value is None and key in Settings.model_fields:
            out[key] = None
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            problems.append(_at(where, document, ("settings", key), "must be a text or a number"))
            continue
        try:
            out[key] = check_setting(key, "" if value is None else str(value)) or None
        except GpumodError as error:
            why = f": {error.info.why}" if error.info.why else f" ({error.info.hint})"
            problems.append(_at(where, document, ("settings", key), error.info.message + why, named=True))
    return out


def _at(where: Path, document: Document, loc: Loc, said: str, *, named: bool = False) -> ErrorInfo:
    field = "" if named else ".".join(map(str, loc))
    return problem(where, said, line=document.line_of(loc), field=field)


def _with(settings: Settings, said: Mapping[str, str | None]) -> Settings:
    base = {key: value for key, value in settings.model_dump().items() if said.get(key, "") is not None}
    return Settings.model_validate({**base, **{key: value for key, value in said.items() if value is not None}})


def _entries(
    where: Path,
    document: Document,
    kind: Literal["service", "mode"],
    known: Mapping[str, str],
    problems: list[ErrorInfo],
    model: type[T],
) -> dict[str, T]:
    out: dict[str, T] = {}
    lines: dict[str, int | None] = {}
    for entry in _parts(where, document, f"{kind}s", problems):
        read = _read(where, entry, kind, known)
        if not isinstance(read, model):
            problems += read if isinstance(read, list) else []
        elif read.id in out:
            said = f"defines {kind} {read.id!r} again (first in line {lines[read.id]})"
            problems.append(problem(where, said, line=entry.line_of(())))
        else:
            out[read.id], lines[read.id] = read, entry.line_of(())
    return out


def _parts(where: Path, document: Document, section: str, problems: list[ErrorInfo]) -> Iterator[Document]:
    """Each mapping in a list of the document, as a document of its own."""
    given = document.data.get(section)
    if given is None:
        return
    if not isinstance(given, list):
        problems.append(_at(where, document, (section,), f"must be a list of {section}"))
        return
    lines: dict[int, dict[Loc, int]] = {}
    for loc, line in document.lines.items():
        if len(loc) > 1 and loc[0] == section and isinstance(loc[1], int):
            lines.setdefault(loc[1], {})[loc[2:]] = line
    for index, data in enumerate(given):
        if isinstance(data, Mapping):
            yield Document(data, lines[index])
        else:
            said = f"must be a mapping of keys to values, not {data!r:.60}"
            problems.append(_at(where, document, (section, index), said))


def _read(
    where: Path, entry: Document, kind: Literal["service", "mode"], known: Mapping[str, str]
) -> Service | Mode | list[ErrorInfo]:
    try:
        if kind == "mode":
            return ModePreset.model_validate(entry.data).to_mode()
        return read_service(expand_paths(entry.data, known))
    except ValidationError as error:
        return from_validation(where, entry, kind, error)
    except BadPath as error:
        return [problem(where, str(error), line=entry.line_of(error.loc), field=".".join(map(str, error.loc)))]
    except ValueError as error:
        return [problem(where, str(error), line=entry.line_of(("supports_sleep",)))]
