"""Loading presets: folders of YAML files become a catalogue, and what is wrong with a file costs that file alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from gpumod.adapters.presets.expand import BadPath, expand_paths, variables
from gpumod.adapters.presets.problems import BAD_FOLDER, from_validation, problem
from gpumod.adapters.presets.schema import ModePreset, read_service
from gpumod.adapters.presets.strict_yaml import BadYaml, Document, read_document
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.mode import Mode
from gpumod.domain.presets import PresetCatalogue, PresetEntry
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

T = TypeVar("T", Service, Mode)
_SUFFIXES = (".yaml", ".yml")
_OF_A_BOX = frozenset({"version", "settings", "modes"})
"""Keys that a document of a whole machine has, and no preset."""


def load_presets(folders: Sequence[tuple[str, Path]], settings: Settings) -> PresetCatalogue:
    """Read the presets of `folders`, each named with the distribution that it comes from.

    A path may also be that of one file. Files are read in the order of folders and of their names; of two that
    define one id the first wins. Never raises for what a file says: `problems` holds that.
    """
    services: dict[str, PresetEntry[Service]] = {}
    modes: dict[str, PresetEntry[Mode]] = {}
    problems: list[ErrorInfo] = []
    known = variables(settings)
    found_in: dict[Path, Path] = {}
    for distribution, folder in folders:
        for path in _files(folder, problems):
            read = _read(path, known)
            found_in.setdefault(path, folder)
            if isinstance(read, Service):
                _add(services, PresetEntry(read, path, distribution), found_in, problems)
            elif isinstance(read, Mode):
                _add(modes, PresetEntry(read, path, distribution), found_in, problems)
            else:
                problems += read
    return PresetCatalogue(services, modes, tuple(problems))


def _files(folder: Path, problems: list[ErrorInfo]) -> list[Path]:
    try:
        if folder.is_file():
            return [folder]
        named = [p for p in sorted(folder.rglob("*")) if p.suffix in _SUFFIXES and not p.name.startswith(".")]
        found = [path for path in named if path.is_file()]
        others = [path for path in named if not path.is_file() and not path.is_dir()]
        missing = not folder.is_dir()
    except OSError as error:
        problems.append(problem(folder, f"cannot be read: {error.strerror}", code=BAD_FOLDER))
        return []
    problems += [problem(path, _no_file(path)) for path in others]
    if missing and (folder.is_symlink() or folder.exists()):
        problems.append(problem(folder, _no_file(folder), code=BAD_FOLDER))
    elif not found and not others:
        said = "is not there" if missing else "holds no presets"
        problems.append(problem(folder, said, code=BAD_FOLDER))
    return found


def _no_file(path: Path) -> str:
    return "is no file" if path.exists() else "is a link to what is not there"


def _read(path: Path, known: Mapping[str, str]) -> Service | Mode | list[ErrorInfo]:
    try:
        document = read_document(path)
    except BadYaml as error:
        return [problem(path, str(error), line=error.line)]
    except OSError as error:
        return [problem(path, f"cannot be read: {error.strerror or error}")]
    if "id" not in document.data and not _OF_A_BOX.isdisjoint(document.data):
        return [_is_box(path)]
    kind = _kind(path, document)
    if kind is None:
        return [problem(path, "must be service or mode", line=document.line_of(("kind",)), field="kind")]
    try:
        return _mode(document) if kind == "mode" else read_service(expand_paths(document.data, known))
    except ValidationError as error:
        return from_validation(path, document, kind, error)
    except BadPath as error:
        return [problem(path, str(error), line=document.line_of(error.loc), field=".".join(map(str, error.loc)))]
    except ValueError as error:
        return [problem(path, str(error), line=document.line_of(("supports_sleep",)))]


def _is_box(path: Path) -> ErrorInfo:
    file = shlex.quote(str(path))
    said = "describes a whole machine (version, settings, services, modes), and is no preset"
    hint = f"`gpumod diff -f {file}` checks it and shows what it changes, `gpumod apply -f {file}` applies it"
    return problem(path, said, hint=hint)


def _mode(document: Document) -> Mode:
    return ModePreset.model_validate(document.data).to_mode()


def _kind(path: Path, document: Document) -> Literal["service", "mode"] | None:
    said = document.data.get("kind", "mode" if path.parent.name == "modes" else "service")
    return said if said in ("service", "mode") else None


def _add(
    entries: dict[str, PresetEntry[T]], entry: PresetEntry[T], found_in: Mapping[Path, Path], problems: list[ErrorInfo]
) -> None:
    first = entries.setdefault(entry.value.id, entry)
    if first is not entry:
        kind, where = type(entry.value).__name__.lower(), f" ({first.distribution})" if first.distribution else ""
        said = f"defines {kind} {entry.value.id!r}, which {first.path}{where} defines already"
        both = dict.fromkeys(str(found_in[one.path]) for one in (first, entry))  # either file alone is in order
        hint = f"give one of them another id; `gpumod preset validate {shlex.join(both)}` checks them again"
        other = str(first.path)
        problems.append(problem(entry.path, said, code="preset-collision", field="id", hint=hint, other=other))
