"""A service as it is inside of its container: its port, its models, and the programs and folders of the settings.

A driver launches what is in there and needs to know nothing of containers. What is mounted without being asked for (the
folders of the model and of what belongs to it, `models_dir`, the models in `hf_home`) is read-only and stands at the
same path in there, so that also what is told later (the members of a router) is right; with a volume of one's own the
path is mapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gpumod.api import Service, Settings
from gpumod_docker.mounts import Volume
from gpumod_docker.options import DRIVER, ContainerOptions
from gpumod_docker.paths import mapped, model_places, other_files, refuse_writing
from gpumod_docker.ports import OWN, PublishedPort

ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # in the container's own network, of which the published ports alone lead out
HF_HOME = "HF_HOME"
HF_MODELS = "hub"
"""What of `hf_home` an image may read unasked: beside it lies the user's token."""
MOST_LINKS = 40
"""So many links the kernel follows on the way to a file."""


class View(NamedTuple):
    """`service` and `settings` as they are in there; the volumes and ports that make it so."""

    service: Service
    settings: Settings
    volumes: tuple[Volume, ...]
    ports: tuple[PublishedPort, ...]


def view(service: Service, settings: Settings, options: ContainerOptions) -> View:
    """The service as its container sees it.

    Raises ValueError where two of its ports are the same, on either side, and where it would write what is read there.
    """
    refuse_writing(service)
    ports = tuple(port._replace(host=port.host or service.port or 0) for port in options.ports)
    if service.port is not None and all(port.host != service.port for port in ports):
        if any(port.container == service.port for port in ports):
            raise ValueError(
                f"port {service.port} in there is published twice: the service's own leads to the same number, where"
                f" ports does not say otherwise ({OWN}:CONTAINER)"
            )
        ports = (PublishedPort(service.port, service.port), *ports)
    if len({port.host for port in ports}) < len(ports):
        raise ValueError(f"port {service.port} is published twice: it is the service's own")
    volumes = (*options.volumes, *_needed(service, settings, options))
    changed: dict[str, Any] = {
        "port": next((port.container for port in ports if port.host == service.port), None),
        "model_path": _mapped(service.model_path, volumes),
    }
    paths = mapped(service, lambda path: _mapped(path, volumes))
    told = settings.model_copy(
        update={
            "bind_host": ALL_ADDRESSES,
            "bin_path": None,
            "vllm_bin": Settings().vllm_bin,
            "llama_server_bin": Settings().llama_server_bin,
            "hf_home": options.environment.get(HF_HOME) or _mapped(settings.hf_home, volumes),
        }
    )
    inner = service.model_copy(update={**changed, "unit_vars": {**service.unit_vars, **paths}})
    return View(inner, told, volumes, ports)


def _needed(service: Service, settings: Settings, options: ContainerOptions) -> Iterator[Volume]:
    """What is mounted without being asked for, read-only and at its own path, where no volume holds it already."""
    cache = settings.hf_home and not options.environment.get(HF_HOME) and f"{settings.hf_home}/{HF_MODELS}"
    common = () if service.driver == DRIVER else (settings.models_dir, cache)
    there = [Path(volume.source) for volume in options.volumes if not volume.is_named]
    taken = {volume.target for volume in options.volumes}
    folders = [folder for folder in common if folder and os.path.isdir(folder)]  # noqa: PTH112 - raises nothing
    models = list(model_places(service))
    behind = [really for path in models if not _is_theirs(path, options) for really in _behind(path)]
    for path in (*folders, *map(_folder, models), *map(_folder, behind), *other_files(service)):
        known = str(path) in taken or any(Path(path).is_relative_to(other) for other in there)
        if not known and not _leads_out(path, options, there):
            there.append(Path(path))
            taken.add(str(path))
            yield Volume(str(path), str(path))


def _is_theirs(path: str, options: ContainerOptions) -> bool:
    """Whether the container may write anywhere on the way to `path`: a link there, which it may have made, is not
    followed."""
    folders = [Path(os.path.realpath(one.source)) for one in options.volumes if one.writable and not one.is_named]
    return any(one in place.parents for place in _way(path) for one in folders)


def _leads_out(path: str, options: ContainerOptions, there: Sequence[Path]) -> bool:
    """Whether a link that the container may have made leads to what it is not shown: `there` is what is mounted."""
    shown = [os.path.realpath(place) for place in there]
    really = Path(os.path.realpath(path))
    return _is_theirs(path, options) and not any(really.is_relative_to(one) for one in shown)


def _way(path: str) -> Iterator[Path]:
    """Every place that is looked up on the way to `path`, with those that links lead over."""
    here, left, links = Path("/"), list(Path(path).parts[1:]), 0
    while left:
        name = left.pop(0)
        here = here.parent if name == ".." else here / name
        yield here
        if os.path.islink(here) and (links := links + 1) <= MOST_LINKS:  # noqa: PTH114 - raises nothing
            target = Path(os.readlink(here))  # noqa: PTH115 - as above
            here = Path("/") if target.is_absolute() else here.parent
            left[:0] = [part for part in target.parts if part != "/"]


def _behind(path: str) -> Iterator[str]:
    """Where a link leads that a model is. The Hub's cache has a model as links in MODEL/snapshots/REVISION to files in
    MODEL/blobs. No other link in a model's folder is followed: whoever may write there could have anything mounted."""
    if (really := os.path.realpath(path)) != path:
        yield really
    for revision in (Path(path), Path(path).parent):
        blobs = revision.parent.parent / "blobs"
        if revision.parent.name == "snapshots" and os.path.isdir(blobs):  # noqa: PTH112 - as above
            yield str(blobs)


def _folder(path: str) -> str:
    """A model's folder: a model in several files has its others beside it."""
    place = Path(path)
    is_file = os.path.isfile(place) or (  # noqa: PTH113 - raises nothing
        not os.path.exists(place) and place.suffix == ".gguf"  # noqa: PTH110 - as above
    )
    return str(place.parent if is_file else place)


def _mapped(path: Any, volumes: Sequence[Volume]) -> Any:
    """Where `path` is in there, by the volume that holds it most closely; what is in none stays as it is."""
    if not isinstance(path, str) or not path.startswith("/"):
        return path
    holding = [v for v in volumes if not v.is_named and PurePosixPath(path).is_relative_to(v.source)]
    if not holding:
        return path
    volume = max(holding, key=lambda one: len(PurePosixPath(one.source).parts))
    return str(PurePosixPath(volume.target) / PurePosixPath(path).relative_to(volume.source))
