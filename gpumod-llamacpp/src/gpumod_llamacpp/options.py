"""What may stand in `unit_vars` of a llama.cpp service: a router, a member of one, or a single model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from gpumod.api import Args, Env, Options, Service, Word, parse_options
from gpumod_llamacpp.denied import refuse_denied, refuse_variables

ALL_LAYERS = 999
ROUTER_LEVEL = "router"
PROCESS_STOP_S = 30.0
MEMBER_STOP_S = 10.0
"""The router's own default."""
DRAIN_S = 30.0
"""So long requests in flight may take before a member is unloaded all the same."""
OF_ROUTERS = frozenset({"router", "extra_args", "env", "llama_server_bin", "stop_timeout_s"})

HF_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
CacheType = Word
AbsolutePath = Annotated[str, Field(pattern=r"^/")]


def _on_off(value: Any) -> Any:
    """YAML reads a bare on/off as a boolean."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class LlamaCppOptions(Options):
    """Options of one llama.cpp service. The README's table explains them."""

    router: bool = False
    n_gpu_layers: Annotated[int, Field(ge=0, le=ALL_LAYERS)] | None = None
    n_layers: Annotated[int, Field(ge=1, le=ALL_LAYERS)] | None = None
    parallel: Annotated[int, Field(ge=1, le=1024)] | None = None
    flash_attn: Annotated[Literal["on", "off", "auto"] | None, BeforeValidator(_on_off)] = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    ubatch_size: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    n_cpu_moe: Annotated[int, Field(ge=0)] | None = None
    mmproj: AbsolutePath | None = None
    model_draft: AbsolutePath | None = None
    n_gpu_layers_draft: Annotated[int, Field(ge=0, le=ALL_LAYERS)] | None = None
    embeddings: bool = False
    reranking: bool = False
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = None
    fit: Annotated[Literal["off"], BeforeValidator(_on_off)] = "off"
    extra_args: Args = ()
    env: Env = {}
    llama_server_bin: Word | None = None
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    drain_timeout_s: Annotated[float, Field(ge=0, le=600)] | None = None

    @field_validator("extra_args")
    @classmethod
    def _no_denied_flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refuse_denied(value)
        return value

    @field_validator("env")
    @classmethod
    def _no_denied_env(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        refuse_variables(value)
        return value


def llamacpp_options(service: Service) -> LlamaCppOptions:
    """The options of `service`. Raises ValueError."""
    return parse_options(LlamaCppOptions, service)


def check_variables(service: Service, variables: Mapping[str, str]) -> None:
    """Raise ValueError for a variable that its `env` may not have either: it would change what was planned, or keep
    gpumod itself from asking."""
    try:
        refuse_variables(variables)
    except ValueError as error:
        raise ValueError(f"service {service.id!r}: {error}") from error


def process_stop_s(options: LlamaCppOptions) -> float:
    """How long a router or a single model may take to end before it is killed."""
    return PROCESS_STOP_S if options.stop_timeout_s is None else options.stop_timeout_s


def member_stop_s(options: LlamaCppOptions) -> float:
    """How long its router lets a member end before it kills it."""
    return MEMBER_STOP_S if options.stop_timeout_s is None else options.stop_timeout_s


def drain_s(options: LlamaCppOptions) -> float:
    """How long requests in flight at a member may take before it is unloaded all the same."""
    return DRAIN_S if options.drain_timeout_s is None else options.drain_timeout_s


def model_settings(service: Service) -> list[tuple[str, str | None]]:
    """The model and how to run it, by long names without dashes; None is a switch. Raises ValueError."""
    options = llamacpp_options(service)
    values: dict[str, object] = {
        # Both are always said, so that what it takes depends on nothing else; 0 is the model's own context.
        "ctx-size": service.context_size or 0,
        "n-gpu-layers": ALL_LAYERS if options.n_gpu_layers is None else options.n_gpu_layers,
        # It would shrink context and layers silently to what is free at that moment; the plan decides here.
        "fit": options.fit,
        "parallel": options.parallel,
        "flash-attn": options.flash_attn,
        "cache-type-k": options.cache_type_k,
        "cache-type-v": options.cache_type_v,
        "ubatch-size": options.ubatch_size,
        "batch-size": options.batch_size,
        "n-cpu-moe": options.n_cpu_moe,
        "mmproj": options.mmproj,
        "model-draft": options.model_draft,
        "gpu-layers-draft": _draft_layers(options),
        "pooling": options.pooling,
    }
    given: list[tuple[str, str | None]] = [_model(service)]
    given += [(name, str(value)) for name, value in values.items() if value is not None]
    given += [(name, None) for name in ("embeddings", "reranking") if getattr(options, name)]
    # Requests in flight are counted there, and nowhere else without waking a model.
    return [*given, ("metrics", None)]


def _draft_layers(options: LlamaCppOptions) -> int | None:
    if options.model_draft is None:
        return None
    return ALL_LAYERS if options.n_gpu_layers_draft is None else options.n_gpu_layers_draft


def _model(service: Service) -> tuple[str, str]:
    who = f"service {service.id!r}"
    if service.model_path:
        if not Path(service.model_path).is_absolute():
            raise ValueError(f"{who}: model_path must be absolute, not {service.model_path!r}")
        return "model", service.model_path
    if not service.model_id:
        raise ValueError(f"{who}: llama.cpp needs model_path (a GGUF file) or model_id (user/repository:quant)")
    if not HF_MODEL.fullmatch(service.model_id):
        raise ValueError(f"{who}: model_id must look like user/repository:quant, not {service.model_id!r}")
    return "hf-repo", service.model_id


def check(service: Service) -> None:
    """Raise ValueError when llama.cpp could not run as the service says."""
    options = llamacpp_options(service)
    who = f"service {service.id!r}"
    quantised_v = options.cache_type_v not in (None, "f16", "f32", "bf16")
    if options.flash_attn == "off" and quantised_v:
        raise ValueError(f"{who}: cache_type_v {options.cache_type_v} needs flash attention")
    if options.n_gpu_layers_draft is not None and options.model_draft is None:
        raise ValueError(f"{who}: n_gpu_layers_draft needs model_draft")
    if options.router:
        _check_router(service, options)
        return
    model_settings(service)
    if service.host is not None and not member_stop_s(options).is_integer():
        raise ValueError(f"{who}: a router counts stop_timeout_s of its members in whole seconds")
    if service.host is None and options.drain_timeout_s is not None:
        raise ValueError(f"{who}: drain_timeout_s is for members of a router, which are unloaded; this is stopped")
    if service.host is None and service.port is None:
        raise ValueError(f"{who}: llama.cpp needs a port, or a host that is a router")
    if service.host is not None and service.port is not None:
        raise ValueError(f"{who}: a member of a router has no port of its own")
    allowed = ("none", ROUTER_LEVEL) if service.host is not None else ("none",)
    if service.sleep_mode not in allowed:
        raise ValueError(
            f"{who}: a member of a router sleeps at {ROUTER_LEVEL!r}, a single model only by being stopped;"
            f" sleep_mode {service.sleep_mode!r} is neither"
        )


def _check_router(service: Service, options: LlamaCppOptions) -> None:
    who = f"service {service.id!r}"
    if service.host is not None:
        raise ValueError(f"{who}: a router has no host")
    if service.port is None:
        raise ValueError(f"{who}: a router needs a port")
    if service.model_id or service.model_path:
        raise ValueError(f"{who}: a router has no model; its members have")
    if service.sleep_mode != "none":
        raise ValueError(f"{who}: a router takes no VRAM and does not sleep; its members do")
    model_options = set(options.model_fields_set) - OF_ROUTERS
    if model_options:
        raise ValueError(f"{who}: {', '.join(sorted(model_options))} belong to the router's members")
