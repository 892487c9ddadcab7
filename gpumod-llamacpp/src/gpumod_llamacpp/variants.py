"""Other ways to run a llama.cpp model with less VRAM."""

from __future__ import annotations

import math

from gpumod.api import AlternativeKind, Service, Variant
from gpumod_llamacpp.options import llamacpp_options

Q8_SAVES = 1 - 1.0625 / 2
"""A q8_0 element takes 34/32 bytes, an f16 one 2."""


def variants(service: Service) -> tuple[Variant, ...]:
    """A q8_0 KV cache, where its size is declared; layers left on the CPU, where their number (`n_layers`) is
    and all are on the GPU."""
    options = llamacpp_options(service)
    if options.router:
        return ()
    kv_mb = (service.context_size or 0) / 1000 * (service.kv_cache_per_1k or 0.0)
    found: list[Variant] = []
    plain = {options.cache_type_k, options.cache_type_v} <= {None, "f16", "bf16"}
    if plain and options.flash_attn != "off" and (saves_mb := math.floor(kv_mb * Q8_SAVES)) > 0:
        found.append(
            Variant(
                kind=AlternativeKind.KV_TYPE,
                title=f"{service.title} with a q8_0 KV cache",
                unit_vars={"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
                saves_mb=saves_mb,
            )
        )
    if (layers := options.n_layers) and (options.n_gpu_layers is None or options.n_gpu_layers >= layers):
        on_gpu = min(layers + 1, options.n_gpu_layers or layers + 1)
        found += _offloads(service, layers, on_gpu, max(0.0, service.vram_mb - kv_mb))
    return tuple(found)


def _offloads(service: Service, layers: int, on_gpu: int, weights_mb: float) -> list[Variant]:
    """A quarter and a half of the layers on the CPU, of a model that has `on_gpu` on the GPU.

    The output layer counts as one more and goes to the GPU first. The KV cache of the moved layers, which moves
    with them, is not counted, so that what is promised is rather too little.
    """
    found = []
    for moved in sorted({math.ceil(layers / 4), math.ceil(layers / 2)}):
        left = layers + 1 - moved
        saves_mb = math.floor(weights_mb * (on_gpu - left) / on_gpu)
        if saves_mb > 0:
            found.append(
                Variant(
                    kind=AlternativeKind.CPU_OFFLOAD,
                    title=f"{service.title} with {moved} of {layers} layers on the CPU",
                    unit_vars={"n_gpu_layers": left},
                    saves_mb=saves_mb,
                    cost=2.0 + 4.0 * moved / layers,
                )
            )
    return found
