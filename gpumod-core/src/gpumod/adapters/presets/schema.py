"""What preset files say, as models: they check the files and give the JSON Schemas for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from gpumod.domain.base import ID_PATTERN, Frozen, Id, Number, Text
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import IdleSeconds, Service

PATH_VARS = ("cwd", "mmproj", "model_draft")
"""The options in `unit_vars` that are paths, besides the field `model_path`."""
VOLUMES = "volumes"
"""The option, also of a `container`, that is a list of paths with more behind them."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SERVICE_KEYS = {
    "kind": "Says that this file is a service; may be left out.",
    "id": "Names the service everywhere. Letters, digits, '.', '_' and '-'.",
    "name": "What people read; the id where it is left out.",
    "driver": "The runtime: vllm, llamacpp, fastapi, or a plugin's.",
    "port": "The port on 127.0.0.1 that it serves. A member of a host has none.",
    "vram_mb": "MiB of VRAM that it takes awake, with context_size tokens of context.",
    "start_peak_mb": "The most MiB that it takes while starting; vram_mb where it is left out.",
    "asleep_mb": "MiB that it keeps while asleep.",
    "context_size": "Tokens of context.",
    "kv_cache_per_1k": "MiB that 1000 tokens of context more or less cost.",
    "model_id": "The model's name on a hub.",
    "model_path": "The model's file or folder. $MODELS_DIR, $HF_HOME, $HOME and ~ are expanded.",
    "health_endpoint": "The path that answers 200 when it is ready.",
    "startup_timeout": "Seconds that a start may take; while it reads or fetches its model they do not count.",
    "supports_sleep": "May be left out; it must agree with sleep_mode.",
    "sleep_mode": "How it sleeps: l1 or l2 (vLLM), router (llama.cpp), http (fastapi); none: by being stopped.",
    "idle_timeout": "Seconds without use after which `gpumod watch` puts it to sleep; 0: never.",
    "unit_template": "A template of its own, by name, for its systemd unit.",
    "unit_vars": "The driver's options.",
    "role": "What it does for others; a smaller service of the same role may take its place.",
    "depends_on": "Ids of services that must be up before it.",
    "gpus": "'any' (the first GPU where it fits), or the indices that it spans.",
    "host": "The id of the service in whose process it lives.",
    "run_with": "What keeps its process alive, where not the machine's default.",
    "pinned": "A pinned service is not stopped by a mode that does not name it.",
    "adopted": "What somebody else set up to run it: unit, container or process. Written by `gpumod service adopt`.",
}
_MODE_KEYS = {
    "kind": "Says that this file is a mode; needed only outside a folder named modes.",
    "id": "Names the mode everywhere. Letters, digits, '.', '_' and '-'.",
    "name": "What people read; the id where it is left out.",
    "description": "What the mode is for.",
    "services": "Its members: ids, or mappings with an id and the state that is wanted.",
}


class FileKeys(Frozen):
    """Keys of a service file that are not the service's own: they are checked and not kept."""

    kind: Literal["service"] = "service"
    supports_sleep: bool | None = None


def read_service(data: Mapping[str, Any]) -> Service:
    """The service that a file defines. Raises ValidationError, and ValueError where `supports_sleep` disagrees."""
    keys = FileKeys.model_validate({key: data[key] for key in FileKeys.model_fields if key in data})
    service = Service.model_validate({key: data[key] for key in data if key not in FileKeys.model_fields})
    if keys.supports_sleep is False and service.supports_sleep:
        raise ValueError(f"supports_sleep is false, but sleep_mode is {service.sleep_mode!r}: one of them is wrong")
    if keys.supports_sleep and not service.supports_sleep:
        raise ValueError("supports_sleep is true, so sleep_mode must name a level (l1, l2, router, http)")
    return service


class MemberPreset(Frozen):
    """A member of a mode: awake, unless one of the two is said."""

    id: Id
    sleep_on_idle: bool = False
    asleep: bool = False
    start_order: Annotated[int, Number] = 0
    idle_timeout: IdleSeconds | None = None

    @model_validator(mode="after")
    def _one_state(self) -> MemberPreset:
        if self.sleep_on_idle and self.asleep:
            raise ValueError("a member is either asleep or sleep_on_idle, not both")
        return self

    @property
    def want(self) -> Want:
        if self.sleep_on_idle:
            return Want.TIME_SHARED
        return Want.ASLEEP if self.asleep else Want.AWAKE


def _by_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class ModePreset(Frozen):
    """A mode as a file defines it."""

    kind: Literal["mode"] = "mode"
    id: Id
    name: Text = ""
    description: Text = ""
    services: tuple[Annotated[MemberPreset, BeforeValidator(_by_id)], ...] = ()

    def to_mode(self) -> Mode:
        """Raises ValidationError when a service is named twice."""
        members = tuple(
            ModeMember(service=m.id, want=m.want, start_order=m.start_order, idle_timeout=m.idle_timeout)
            for m in self.services
        )
        return Mode(id=self.id, name=self.name, description=self.description, members=members)


def service_schema() -> dict[str, Any]:
    """The JSON Schema of service files."""
    schema = Service.model_json_schema()
    schema["properties"].update(FileKeys.model_json_schema()["properties"])
    return _described(schema, "gpumod service", _SERVICE_KEYS)


def mode_schema() -> dict[str, Any]:
    """The JSON Schema of mode files."""
    schema = _described(ModePreset.model_json_schema(), "gpumod mode", _MODE_KEYS)
    services = schema["properties"]["services"]
    services["items"] = {"anyOf": [{"type": "string", "pattern": ID_PATTERN}, services["items"]]}
    return schema


def allowed_keys(kind: Literal["service", "mode"]) -> tuple[str, ...]:
    """The keys that a file of this kind may have."""
    return tuple(_SERVICE_KEYS if kind == "service" else _MODE_KEYS)


def _described(schema: dict[str, Any], title: str, keys: dict[str, str]) -> dict[str, Any]:
    properties = schema["properties"]
    schema["properties"] = {key: {**properties[key], "description": text} for key, text in keys.items()}
    return {"$schema": _DIALECT, **schema, "title": title, "description": f"A preset file: a {title}."}
