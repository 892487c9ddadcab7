"""Number formats that options of vLLM ask the card for."""

from __future__ import annotations

from gpumod.api import FormatNeed
from gpumod_vllm.options import VllmOptions

_FP8_CACHE = frozenset({"fp8", "fp8_e4m3"})
"""`fp8_e5m2` is only stored so, and made wider by any card before it computes."""


def formats(options: VllmOptions) -> tuple[FormatNeed, ...]:
    """vLLM refuses `bfloat16` below compute capability 8.0. An e4m3 cache and fp8 weights it reads by other means on
    cards that do not compute in fp8, as far as its kernels there go (FlashInfer's, Marlin's)."""
    found: list[FormatNeed] = []
    for name, instead in (("dtype", "float16"), ("kv_cache_dtype", "auto")):
        if getattr(options, name) == "bfloat16":
            found.append(FormatNeed(number_format="bf16", option=f"{name}=bfloat16", instead=f"--set {name}={instead}"))
    if options.kv_cache_dtype in _FP8_CACHE:
        option = f"kv_cache_dtype={options.kv_cache_dtype}"
        found.append(FormatNeed(number_format="fp8", option=option, instead="--set kv_cache_dtype=auto", emulated=True))
    if options.quantization == "fp8":
        instead = "a model with AWQ or GPTQ weights"
        found.append(FormatNeed(number_format="fp8", option="quantization=fp8", instead=instead, emulated=True))
    return tuple(found)
