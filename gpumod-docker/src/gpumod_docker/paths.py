"""Options of drivers that name places of this machine, which a container has to be given, and one that writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from gpumod.api import Service

MODELS = ("mmproj", "model_draft")
"""Files of a model: others of the same model lie beside them."""
FILES = ("kv_offload_config",)
ADAPTERS = "lora_modules"
DISK_GB = "kv_offload_disk_gb"
"""The KV cache on disk, in the service's folder, which a container cannot write into."""


def model_places(service: Service) -> Iterator[str]:
    """The model, what belongs to it, and its adapters, where these are places of this machine."""
    told: list[Any] = [service.model_path, *(service.unit_vars.get(name) for name in MODELS)]
    for path in (*told, *_adapters(service).values()):
        if _is_place(path):
            yield path


def other_files(service: Service) -> Iterator[str]:
    """Files that are read beside the model."""
    for name in FILES:
        if _is_place(path := service.unit_vars.get(name)):
            yield path


def mapped(service: Service, inside: Callable[[str], str]) -> dict[str, Any]:
    """Those options with their places as `inside` tells them; what is no place of this machine stays as it is."""
    told: dict[str, Any] = {name: service.unit_vars[name] for name in (*MODELS, *FILES) if name in service.unit_vars}
    found: dict[str, Any] = {name: inside(path) if _is_place(path) else path for name, path in told.items()}
    if adapters := _adapters(service):
        found[ADAPTERS] = {name: inside(path) if _is_place(path) else path for name, path in adapters.items()}
    return found


def refuse_writing(service: Service) -> None:
    """Raise ValueError where the service would write into its own folder, which its container only reads."""
    if _number(service.unit_vars.get(DISK_GB)) > 0:
        raise ValueError(
            f"{DISK_GB} keeps the KV cache in the service's own folder, which a container cannot write into; have a"
            " folder of yours as a volume (SOURCE:TARGET:rw) and name it in a file of your own, kv_offload_config"
        )


def _number(value: Any) -> float:
    """What is no number is its driver's to refuse."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _adapters(service: Service) -> Mapping[str, Any]:
    """`NAME=PATH NAME=PATH`, a list of these, or a mapping; what is none of them is its driver's to refuse."""
    value: Any = service.unit_vars.get(ADAPTERS)
    if isinstance(value, str):
        value = value.split()
    if isinstance(value, list | tuple) and all(isinstance(word, str) and "=" in word for word in value):
        value = dict(word.split("=", 1) for word in value)
    return value if isinstance(value, Mapping) else {}


def _is_place(path: Any) -> TypeGuard[str]:
    return isinstance(path, str) and path.startswith("/")
