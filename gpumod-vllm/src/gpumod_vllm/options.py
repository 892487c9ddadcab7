"""What may stand in `unit_vars` of a vLLM service."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from gpumod.api import Args, Env, Options, Service, Word, parse_options, refuse_flags
from gpumod_vllm.lora import Adapters, Rank

SLEEP_LEVELS = ("l1", "l2")
RELOADABLE = frozenset({"auto", "hf", "safetensors", "pt", "mistral", "runai_streamer"})
"""Load formats of which vLLM can read the weights again in place, which waking from level 2 needs."""

DENIED_FLAGS = (
    "--host", "--port", "--uds", "--api-key", "--ssl-*", "--config", "--model", "--headless",
    "--gpu-memory-utilization", "--device-memory-utilization", "--kv-cache-memory-bytes", "--max-model-len",
    "--max-num-seqs", "--dtype", "--quantization", "-q", "--kv-cache-dtype", "--tensor-parallel-size", "-tp",
    "--runner", "--convert", "--enforce-eager", "--served-model-name", "--load-format", "--enable-sleep-mode",
    "--enable-lora", "--lora-modules", "--max-loras", "--max-cpu-loras", "--max-lora-rank",
    "--disable-log-stats", "--disable-access-log-for-endpoints", "--hf-token",
    "--allowed-local-media-path", "--device-ids",
)  # fmt: skip
"""Flags that have an option of their own, are gpumod's to give, hold a secret, or open files to whoever asks."""
WHOLE = frozenset({"--device"})
"""Flags of older versions (before 0.10 or so), and no beginnings of those above."""
OTHERWISE_PARALLEL = frozenset({"--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp"})
"""Flags that use GPUs beside those of `tensor_parallel_size`."""
MOVES_KV = "--kv-transfer-config or --kv-offloading-size"
MIB = 1024 * 1024
ALLOC_CONF = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


class VllmOptions(Options):
    """Options of one vLLM service. The README's table explains them."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    kv_cache_memory_bytes: Annotated[int, Field(gt=0)] | None = None
    max_model_len: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    max_num_seqs: Annotated[int, Field(gt=0)] | None = None
    dtype: Word | None = None
    quantization: Word | None = None
    kv_cache_dtype: Word | None = None
    tensor_parallel_size: Annotated[int, Field(ge=1, le=256)] | None = None
    runner: Literal["auto", "generate", "pooling", "draft"] | None = None
    convert: Literal["auto", "none", "embed", "classify"] | None = None
    enforce_eager: bool = False
    served_model_name: Word | None = None
    load_format: Word | None = None
    enable_lora: bool = False
    lora_modules: Adapters = {}
    max_loras: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_cpu_loras: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_lora_rank: Rank | None = None
    kv_offload: Literal["lmcache"] | None = None
    kv_offload_cpu_gb: Annotated[float, Field(gt=0, le=100_000)] = 5.0
    kv_offload_disk_gb: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    kv_offload_chunk_tokens: Annotated[int, Field(ge=16, le=65536)] = 256
    kv_offload_config: Annotated[str, Field(pattern=r"^/[^\x00-\x1f{}]*$")] | None = None
    extra_args: Args = ()
    env: Env = {}
    vllm_bin: Word | None = None
    sleep_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    wake_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    stop_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0

    @property
    def uses_lora(self) -> bool:
        return self.enable_lora or bool(self.lora_modules)

    @field_validator("extra_args")
    @classmethod
    def _no_denied_flags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        refuse_flags(value, DENIED_FLAGS, abbreviations=True, whole=WHOLE)
        return value


def vllm_options(service: Service) -> VllmOptions:
    """The options of `service`. Raises ValueError."""
    return parse_options(VllmOptions, service)


def model_of(service: Service) -> str:
    """What vLLM is told to serve: a folder or the name of a model. Raises ValueError when there is neither."""
    model = service.model_path or service.model_id
    if not model:
        raise ValueError(f"service {service.id!r}: vLLM needs model_path or model_id")
    if model.startswith("-"):
        raise ValueError(f"service {service.id!r}: the model {model!r} would be taken for a flag")
    return model


def served_name(service: Service) -> str:
    """The name under which requests ask for the model."""
    return vllm_options(service).served_model_name or model_of(service)


def spans(service: Service) -> int:
    """On how many GPUs it runs."""
    return 1 if service.gpus == "any" else len(service.gpus)


def kv_cache_bytes_mb(service: Service, options: VllmOptions) -> int:
    """MiB over all its GPUs that `kv_cache_memory_bytes`, which counts for each of them, comes to; 0 without it."""
    return -(-(options.kv_cache_memory_bytes or 0) // MIB) * spans(service)


def check(service: Service) -> None:
    """Raise ValueError when vLLM could not run, or could not sleep, as the service says."""
    options = vllm_options(service)
    who = f"service {service.id!r}"
    model_of(service)
    if service.host is not None:
        raise ValueError(f"{who}: a vLLM service has no host")
    if service.port is None:
        raise ValueError(f"{who}: vLLM needs a port")
    kv_mb = kv_cache_bytes_mb(service, options)
    if kv_mb and service.vram_mb <= kv_mb:
        raise ValueError(f"{who}: vram_mb must be above the {kv_mb} MiB of kv_cache_memory_bytes: weights come on top")
    if service.vram_mb == 0 and options.gpu_memory_utilization is None:
        raise ValueError(f"{who}: vLLM must be told what it may take: vram_mb, or the option gpu_memory_utilization")
    gpus, parallel = spans(service), options.tensor_parallel_size or spans(service)
    flags = (arg.partition("=")[0].replace("_", "-") for arg in options.extra_args)
    otherwise = next((flag for flag in flags if flag in OTHERWISE_PARALLEL), None)
    if otherwise and gpus > 1 and options.tensor_parallel_size is None:
        raise ValueError(f"{who}: say tensor_parallel_size beside {otherwise}: its {gpus} gpus are those of both")
    if parallel > gpus or (parallel < gpus and not otherwise):
        raise ValueError(f"{who}: tensor_parallel_size {parallel} needs as many gpus, not {gpus}")
    _check_stop(service, options)
    _check_lora(service, options)
    _check_offload(service, options)
    if service.sleep_mode not in ("none", *SLEEP_LEVELS):
        raise ValueError(f"{who}: vLLM sleeps at l1 or l2, not at {service.sleep_mode!r}")
    if service.sleep_mode != "none":
        _check_sleep(service, options)
    check_variables(service, options.env)


def check_variables(service: Service, variables: Mapping[str, str]) -> None:
    """Raise ValueError for a variable with which vLLM could not run, or could not sleep, as the service says."""
    who = f"service {service.id!r}"
    if vllm_options(service).kv_offload and "LMCACHE_CONFIG_FILE" in variables:
        raise ValueError(f"{who}: gpumod sets LMCACHE_CONFIG_FILE; name your own file in kv_offload_config")
    if service.sleep_mode == "none":
        return
    if name := defeats_sleep(variables):
        raise ValueError(
            f"{who}: {name}=expandable_segments:True defeats sleep: vLLM would say that it sleeps and free nothing"
        )
    if variables.get("VLLM_SERVER_DEV_MODE", "1") != "1":
        raise ValueError(f"{who}: VLLM_SERVER_DEV_MODE must be 1 for sleep mode {service.sleep_mode}; leave it out")
    if service.sleep_mode == "l2" and "VLLM_API_KEY" in variables:
        raise ValueError(f"{who}: with VLLM_API_KEY gpumod could not ask whether it woke well from l2; use l1")


def defeats_sleep(env: Mapping[str, str]) -> str | None:
    """The variable with which torch keeps the memory that a sleeper should give back; None where there is none."""
    pattern = re.compile(r"expandable_segments\s*:\s*true", re.IGNORECASE)
    return next((name for name in ALLOC_CONF if pattern.search(env.get(name, ""))), None)


def _check_stop(service: Service, options: VllmOptions) -> None:
    """Where vLLM is told to let requests finish when it is stopped, it must not be killed before."""
    words = [word for arg in options.extra_args for word in arg.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        if (
            flag.replace("_", "-").startswith("--shutdown-t")
            and value.isdecimal()
            and int(value) >= options.stop_timeout_s
        ):
            raise ValueError(
                f"service {service.id!r}: stop_timeout_s ({options.stop_timeout_s:g}) must be above --shutdown-timeout"
                f" {value}: vLLM would be killed while requests finish"
            )


def _check_lora(service: Service, options: VllmOptions) -> None:
    who = f"service {service.id!r}"
    if not options.uses_lora:
        limits = {"max_loras": options.max_loras, "max_cpu_loras": options.max_cpu_loras}
        limits["max_lora_rank"] = options.max_lora_rank
        for name, value in limits.items():
            if value is not None:
                raise ValueError(f"{who}: {name} says nothing without lora_modules or enable_lora")
    if served_name(service) in options.lora_modules:
        raise ValueError(f"{who}: an adapter is called {served_name(service)!r} as the model itself is")
    if options.max_loras and options.max_cpu_loras and options.max_cpu_loras < options.max_loras:
        raise ValueError(f"{who}: max_cpu_loras must be at least max_loras ({options.max_loras})")


def _check_offload(service: Service, options: VllmOptions) -> None:
    who = f"service {service.id!r}"
    given = sorted(name for name in options.model_fields_set if name.startswith("kv_offload_"))
    if given and options.kv_offload is None:
        raise ValueError(f"{who}: {given[0]} says nothing without kv_offload")
    if options.kv_offload and moves_kv(options.extra_args):
        raise ValueError(
            f"{who}: kv_offload and {MOVES_KV} both choose a connector for the KV cache; leave one of them out"
        )


def moves_kv(args: Sequence[str]) -> bool:
    """True where `args` hold `--kv-transfer-config` or `--kv-offloading-size`, which stands for one; or a beginning or
    a part of them, as vLLM takes them too."""
    return any(arg.replace("_", "-").startswith(("--kv-t", "--kv-offloading-s")) for arg in args)


def _check_sleep(service: Service, options: VllmOptions) -> None:
    who = f"service {service.id!r}"
    if options.kv_offload or moves_kv(options.extra_args):
        raise ValueError(
            f"{who}: what moves the KV cache elsewhere (kv_offload, {MOVES_KV}) cannot sleep: sleeping frees the memory"
            " that it reads and writes, and vLLM does not start so; leave one of them out"
        )
    if options.uses_lora and service.sleep_mode == "l2":
        raise ValueError(
            f"{who}: LoRA adapters do not come back from level 2 (vLLM reloads the weights of the model alone); use l1"
        )
    if service.sleep_mode == "l2" and options.load_format not in (None, *RELOADABLE):
        raise ValueError(
            f"{who}: vLLM cannot reload weights of load_format {options.load_format!r}, which level 2 needs; use l1"
        )
