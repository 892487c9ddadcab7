"""What may stand in `unit_vars` of an Ollama and of its members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from gpumod.api import Env, Options, Service, Word, parse_options

LEVEL = "unload"
MODEL = re.compile(r"[A-Za-z0-9][\w./:-]{0,250}")
OF_MEMBERS = frozenset({"unload_timeout_s"})
OURS = ("OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_NOPRUNE")


class OllamaOptions(Options):
    """Options of an Ollama, or of one of its models. docs/fastapi.md explains them."""

    ollama_bin: Annotated[str, Field(min_length=1)] = "ollama"
    models_dir: Annotated[str, Field(pattern=r"^/")] | None = None
    max_loaded_models: Annotated[int, Field(ge=1, le=1000)] = 16
    context_length: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    num_parallel: Annotated[int, Field(ge=1, le=1000)] | None = None
    kv_cache_type: Word | None = None
    flash_attention: bool | None = None
    env: Env = {}
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    unload_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0


def ollama_options(service: Service) -> OllamaOptions:
    """The options of `service`. Raises ValueError."""
    return parse_options(OllamaOptions, service)


def model_of(member: Service) -> str:
    """The name under which Ollama lists the member's model: with a tag, `latest` where none is given."""
    name = member.model_id or ""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def check(service: Service) -> None:
    """Raise ValueError when the service could not run as it says."""
    options = ollama_options(service)
    who = f"service {service.id!r}"
    if service.model_path:
        raise ValueError(
            f"{who}: Ollama knows its models by name: model_id (as `ollama list` shows it), not model_path"
        )
    if service.host is None:
        _check_host(who, service, options)
    else:
        _check_member(who, service, options)


def _check_host(who: str, service: Service, options: OllamaOptions) -> None:
    if service.port is None:
        raise ValueError(f"{who}: an Ollama needs a port; its models have it as their host")
    if service.model_id:
        raise ValueError(f"{who}: an Ollama has no model_id; its members have, with this service as their host")
    if service.sleep_mode != "none":
        raise ValueError(f"{who}: an Ollama does not sleep; its members do")
    if "unload_timeout_s" in options.model_fields_set:
        raise ValueError(f"{who}: unload_timeout_s belongs to an Ollama's members")
    check_variables(service, options.env)


def check_variables(service: Service, variables: Mapping[str, str]) -> None:
    """Raise ValueError for a variable that says where and how an Ollama runs, which is gpumod's to say."""
    if ours := sorted(set(variables) & set(OURS)):
        raise ValueError(f"service {service.id!r}: {', '.join(ours)} is set by gpumod")


def _check_member(who: str, service: Service, options: OllamaOptions) -> None:
    if service.port is not None:
        raise ValueError(f"{who}: a model of an Ollama has no port of its own")
    if not MODEL.fullmatch(service.model_id or ""):
        raise ValueError(f"{who}: a model of an Ollama needs its name as model_id, such as llama3:8b")
    if service.sleep_mode not in ("none", LEVEL):
        raise ValueError(f"{who}: a model of an Ollama sleeps at {LEVEL!r}, not at {service.sleep_mode!r}")
    if service.context_size is not None:
        raise ValueError(f"{who}: an Ollama has one context length for all models: its option context_length")
    if strange := sorted(options.model_fields_set - OF_MEMBERS):
        raise ValueError(f"{who}: {', '.join(strange)} belong to the Ollama, not to its models")
