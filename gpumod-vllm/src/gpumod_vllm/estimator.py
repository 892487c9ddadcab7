"""What options that fix vLLM's memory make of a service's VRAM."""

from __future__ import annotations

import math

from gpumod.api import Estimate, ModelInfo, Service, Source
from gpumod_vllm.options import VllmOptions, kv_cache_bytes_mb, spans, vllm_options


class VllmEstimator:
    """vLLM takes utilization x total on every GPU that it spans, whatever the model's size and the preset say.

    With `kv_cache_memory_bytes` utilization says no more than what must be free at the start, and it takes that much
    besides the weights: what the service declares, and never less than the KV cache. Without either option the driver
    computes the utilization from what the service declares, so there is nothing to estimate.
    """

    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> Estimate | None:
        try:
            options = vllm_options(service)
        except ValueError:
            return None  # the driver's check says what is wrong with the options
        if options.kv_cache_memory_bytes is not None:
            return _by_kv_cache(service, options)
        share = options.gpu_memory_utilization
        if share is None:
            return None
        count = spans(service)
        vram_mb = math.ceil(round(share * gpu_total_mb, 6)) * count
        return _explicit(vram_mb, f"gpu_memory_utilization {share:g} x {gpu_total_mb} MiB{_on_each(count)}")


def _by_kv_cache(service: Service, options: VllmOptions) -> Estimate:
    count, kv_mb = spans(service), kv_cache_bytes_mb(service, options)
    why = f"kv_cache_memory_bytes {kv_mb // count} MiB{_on_each(count)}, the rest of vram_mb for the weights"
    return _explicit(max(service.vram_mb, kv_mb), why)


def _explicit(vram_mb: int, why: str) -> Estimate:
    return Estimate(estimator="vllm", source=Source.EXPLICIT, vram_mb=vram_mb, start_peak_mb=vram_mb, why=why)


def _on_each(count: int) -> str:
    return f" on each of {count} GPUs" if count > 1 else ""
