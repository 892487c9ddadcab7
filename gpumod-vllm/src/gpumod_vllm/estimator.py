"""What an explicit `gpu_memory_utilization` makes of a vLLM's VRAM."""

from __future__ import annotations

import math

from gpumod.api import Estimate, ModelInfo, Service, Source
from gpumod_vllm.options import vllm_options


class VllmEstimator:
    """vLLM takes utilization x total on every GPU that it spans, whatever the model's size and the preset say.

    Without that option the driver computes the utilization from what the service declares, so there is nothing to
    estimate; with `kv_cache_memory_bytes` vLLM ignores utilization.
    """

    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> Estimate | None:
        try:
            options = vllm_options(service)
        except ValueError:
            return None  # the driver's check says what is wrong with the options
        share = options.gpu_memory_utilization
        if share is None or options.kv_cache_memory_bytes is not None:
            return None
        spans = options.tensor_parallel_size or (1 if service.gpus == "any" else len(service.gpus))
        vram_mb = math.ceil(round(share * gpu_total_mb, 6)) * spans
        on = f" on each of {spans} GPUs" if spans > 1 else ""
        return Estimate(
            estimator="vllm",
            source=Source.EXPLICIT,
            vram_mb=vram_mb,
            start_peak_mb=vram_mb,
            why=f"gpu_memory_utilization {share:g} x {gpu_total_mb} MiB{on}",
        )
