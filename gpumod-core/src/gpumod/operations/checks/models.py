"""Where models lie: the folders that are set, and the files that services name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gpumod.domain.errors import GpumodError
from gpumod.operations.checks.case import Case, fine, from_error, problem, warning
from gpumod.operations.results import Check
from gpumod.ports.checkup import PlaceFacts


def check_models(case: Case) -> Iterator[Check]:
    settings = case.machine.settings
    for key in ("models_dir", "hf_home"):
        folder = getattr(settings, key)
        if folder:
            yield from _folder(case, key, Path(folder).expanduser())
    if not case.real:  # what stands in for the runtimes reads no model
        return
    for service in case.services.values():
        path = Path(service.model_path or "")
        if path.is_absolute() and not service.adopted:
            yield from _model(case, service.id, path)


def _folder(case: Case, key: str, folder: Path) -> Iterator[Check]:
    try:
        place = case.computer.place(folder)
    except GpumodError as error:
        yield from_error("models", error)
        return
    least_mb = case.machine.settings.min_free_disk_mb
    if place.kind != "folder" or not place.readable:
        yield warning("models", f"{folder}{_why(place)}", f"gpumod settings set {key} FOLDER (or --default)")
    elif place.free_mb < least_mb:
        yield warning("models", f"{folder}: {place.free_mb} MiB free", "free some space: downloads would fail")
    else:
        yield fine("models", f"{folder}: {place.free_mb} MiB free")


def _model(case: Case, service: str, path: Path) -> Iterator[Check]:
    name, hint = f"service {service}", f"put it there, or: gpumod service edit {service} --model-path PATH"
    try:
        place = case.computer.place(path)
    except GpumodError as error:
        yield from_error(name, error)
        return
    if not place.readable:
        yield problem(name, f"its model {path}{_why(place)}", hint)


def _why(place: PlaceFacts) -> str:
    if place.kind == "missing":
        return " is not there"
    return " may not be read by this user" if place.kind in ("hidden", "folder") or not place.readable else " is a file"
