"""The vLLM driver: `vllm serve`, one model per service."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gpumod.api import (
    Activity,
    Allocation,
    AlternativeKind,
    Answer,
    Capabilities,
    CommandLine,
    FatalLine,
    FormatNeed,
    Http,
    HttpFailure,
    HttpReply,
    Launch,
    ProbeResult,
    Service,
    Settings,
    Told,
    Variant,
    first_fatal,
)
from gpumod_vllm import versions
from gpumod_vllm.activity import activity_in
from gpumod_vllm.formats import formats
from gpumod_vllm.logs import RULES
from gpumod_vllm.lora import lora_flags
from gpumod_vllm.offload import offload_env, offload_files, offload_flags
from gpumod_vllm.options import SLEEP_LEVELS, VllmOptions, check, check_variables, model_of, vllm_options
from gpumod_vllm.reading import read_command

PROBE_TIMEOUT_S = 2.0
STEPS = 1_000_000
"""Utilization is given with six decimals: a millionth of a card is far below a MiB."""


def utilization(allocation: Allocation) -> float | None:
    """The smallest utilization of six decimals with which a GPU's share is granted; at most 1.

    vLLM takes utilization x total of every GPU. Rounding down would deny it memory that was planned; rounding up makes
    it take at most total / 1000000 more (0.02 MiB of a 24 GB card, where four decimals would be 2.4 MiB over the plan).
    Shares of several GPUs are the same part of each but for rounding: with the smallest part it takes nowhere more
    than its share. None: no GPU, or nothing to take.
    """
    shares = [share for share in allocation.gpus if share.vram_mb > 0 and share.total_mb > 0]
    if not shares:
        return None
    # Whole numbers, so that no rounding of floats takes it below the share.
    return min(STEPS, *(-(-share.vram_mb * STEPS // share.total_mb) for share in shares)) / STEPS


def kv_cache_mb(service: Service) -> float:
    """What the KV cache takes by the service's own declaration; 0 when it declares none."""
    return (service.context_size or 0) / 1000 * (service.kv_cache_per_1k or 0.0)


class VllmDriver:
    """Starts and asks `vllm serve`."""

    name = "vllm"

    def check(self, service: Service) -> None:
        check(service)

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None:
        check_variables(service, variables)

    def capabilities(self, service: Service) -> Capabilities:
        # vLLM compares free memory with what it wants when it starts, so nothing else may move meanwhile.
        levels = SLEEP_LEVELS if service.sleep_mode in SLEEP_LEVELS else ()
        # With its KV cache's bytes given it takes the same of every GPU, else the same part of each.
        by_bytes = vllm_options(service).kv_cache_memory_bytes is not None
        return Capabilities(sleep_levels=levels, exclusive_start=True, equal_part=not by_bytes)

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """The command line and environment. Raises ValueError as :meth:`check` does."""
        check(service)
        options = vllm_options(service)
        argv = [options.vllm_bin or settings.vllm_bin, "serve", model_of(service)]
        argv += ["--host", settings.bind_host, "--port", str(service.port)]
        argv += _memory_flags(service, options, allocation)
        argv += _model_flags(options)
        argv += offload_flags(options)
        env = {"HF_HOME": settings.hf_home} if settings.hf_home else {}
        env |= {**options.env, **offload_env(options)}
        if service.sleep_mode in SLEEP_LEVELS:
            argv.append("--enable-sleep-mode")
            env["VLLM_SERVER_DEV_MODE"] = "1"
        return Launch(
            argv=(*argv, *options.extra_args),
            env=env,
            files=offload_files(service, options),
            ports=(service.port,) if service.port else (),
            stop_timeout_s=options.stop_timeout_s,
            gpus_by_number=True,  # as every version takes them; where it is asked for its own, it may take more
        )

    def questions(self, service: Service, launch: Launch, settings: Settings) -> tuple[tuple[str, ...], ...]:
        return ((launch.argv[0], "--version"),)

    def suited(self, service: Service, launch: Launch, answers: Sequence[Answer]) -> Launch:
        return versions.suited(service, launch, answers)

    def read_command(self, command: CommandLine) -> Told | None:
        return read_command(command)

    async def probe(self, service: Service, port: int, http: Http) -> ProbeResult:
        """`failed` when the engine is dead. Only GETs that a sleeping engine answers are sent."""
        try:
            health = await http.request("GET", port, service.health_endpoint, timeout_s=PROBE_TIMEOUT_S)
            if health.status == 503:
                return ProbeResult(state="failed", detail="vLLM says that its engine is dead (503)")
            if health.status != 200:
                return ProbeResult(state="unhealthy", detail=f"{service.health_endpoint} answered {health.status}")
            if service.sleep_mode not in SLEEP_LEVELS:
                return ProbeResult(state="ready")
            return _sleep_state(await http.request("GET", port, "/is_sleeping", timeout_s=PROBE_TIMEOUT_S))
        except HttpFailure as failure:
            if failure.kind == "refused":
                return ProbeResult(state="starting", detail="not listening yet")
            if failure.kind == "timeout":
                return ProbeResult(state="unhealthy", detail=f"no answer in {PROBE_TIMEOUT_S:g} s")
            return ProbeResult(state="unhealthy", detail=str(failure))

    async def activity(self, service: Service, port: int, http: Http) -> Activity | None:
        """By `/metrics`, which a sleeping engine answers too. Asking counts as no request."""
        reply = await http.request("GET", port, "/metrics", timeout_s=PROBE_TIMEOUT_S)
        return activity_in(reply.text) if reply.ok else None

    def fatal_line(self, service: Service, lines: Sequence[str]) -> FatalLine | None:
        return first_fatal(RULES, lines)

    def variants(self, service: Service) -> tuple[Variant, ...]:
        """An fp8 KV cache takes half of a 16 bit one. Nothing where the user fixed what vLLM takes."""
        options = vllm_options(service)
        fixed = options.gpu_memory_utilization is not None or options.kv_cache_memory_bytes is not None
        saves_mb = math.floor(kv_cache_mb(service) / 2)
        if fixed or saves_mb < 1 or options.kv_cache_dtype not in (None, "auto", "float16", "bfloat16"):
            return ()
        return (
            Variant(
                kind=AlternativeKind.KV_TYPE,
                title=f"{service.title} with an fp8 KV cache",
                unit_vars={"kv_cache_dtype": "fp8"},
                saves_mb=saves_mb,
            ),
        )

    def formats(self, service: Service) -> tuple[FormatNeed, ...]:
        return formats(vllm_options(service))


def _sleep_state(reply: HttpReply) -> ProbeResult:
    if reply.status == 404:
        return ProbeResult(state="ready", detail="it cannot sleep: it runs without VLLM_SERVER_DEV_MODE=1")
    asleep = reply.json_body.get("is_sleeping") if isinstance(reply.json_body, dict) else None
    if not reply.ok or not isinstance(asleep, bool):
        return ProbeResult(state="unhealthy", detail=f"/is_sleeping answered {reply.status}: {reply.text[:120]}")
    return ProbeResult(state="sleeping" if asleep else "ready")


def _memory_flags(service: Service, options: VllmOptions, allocation: Allocation) -> list[str]:
    flags: list[str] = []
    if options.kv_cache_memory_bytes is not None:
        flags += ["--kv-cache-memory-bytes", str(options.kv_cache_memory_bytes)]
    # Also with the KV cache's bytes given: vLLM starts only where its share (0.92 without this) is free.
    share = options.gpu_memory_utilization or utilization(allocation)
    if share is not None:
        flags += ["--gpu-memory-utilization", f"{share:.10g}"]
    length = options.max_model_len or service.context_size
    if length is not None:
        flags += ["--max-model-len", str(length)]
    spans = options.tensor_parallel_size or len(allocation.gpus)
    if spans > 1:
        flags += ["--tensor-parallel-size", str(spans)]
    return flags


def _model_flags(options: VllmOptions) -> list[str]:
    values = {
        "--max-num-seqs": options.max_num_seqs,
        "--dtype": options.dtype,
        "--quantization": options.quantization,
        "--kv-cache-dtype": options.kv_cache_dtype,
        "--runner": options.runner,
        "--convert": options.convert,
        "--served-model-name": options.served_model_name,
        "--load-format": options.load_format,
    }
    flags = [word for flag, value in values.items() if value is not None for word in (flag, str(value))]
    flags += ["--enforce-eager"] if options.enforce_eager else []
    limits = {
        "--max-loras": options.max_loras,
        "--max-cpu-loras": options.max_cpu_loras,
        "--max-lora-rank": options.max_lora_rank,
    }
    return flags + lora_flags(options.lora_modules, enabled=options.enable_lora, limits=limits)
