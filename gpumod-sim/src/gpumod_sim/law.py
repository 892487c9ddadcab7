"""How long things take: a fit to published times, in seconds, and not a measurement of ours. Pure.

The sources differ by a factor of two between hosts; what matters is the order of things (a wake is much shorter than
a start, a start grows with the weights). `weights_mb` is MiB per GPU.
"""

from __future__ import annotations

import math
import zlib

DISK_MB_S = 2500.0  # between a cold NVMe (1000) and the page cache (9000)
NOISE = 0.05  # A100 repeats vary by 2 to 7 %
CONTEXT_MB = 500  # a CUDA context and its graphs
TOKEN_S = 0.01


def noise(seed: int, *what: object) -> float:
    """A log-normal factor near 1, the same for the same arguments."""
    text = "/".join(str(part) for part in (seed, *what)).encode()
    u, v = ((zlib.crc32(text, start) + 1) / 2**32 for start in (0, 0x9E3779B9))
    return math.exp(NOISE * math.sqrt(-2 * math.log(min(u, 1.0))) * math.cos(2 * math.pi * v))


def tail(seed: int, *what: object) -> float:
    """A factor from 1 to 8 with a heavy tail (median 1.4), the same for the same arguments."""
    share = zlib.crc32("/".join(str(part) for part in (seed, *what)).encode()) / 2**32
    return min(8.0, float((1 - share) ** -0.5))


def vllm_import_s() -> float:
    """Until vLLM looks at the GPU (20 s in all on an A4000 host, up to 37 elsewhere)."""
    return 15.0


def vllm_load_s(weights_mb: int) -> float:
    return 5.0 + weights_mb / DISK_MB_S


def vllm_compile_s(*, eager: bool) -> float:
    """Compilation (cached) and graph capture."""
    return 1.0 if eager else 12.0


def sleep_s(level: int, weights_mb: int) -> float:
    """L1 copies the weights to host RAM. The first time it also pins that RAM, which may take much longer: `tail`."""
    if level != 1:
        return 0.1 + min(0.4, weights_mb / 100_000)
    return 0.75 * wake_s(weights_mb)


def wake_s(weights_mb: int) -> float:
    """L1: 10 GB/s for small models to 22 GB/s for large ones."""
    bandwidth = 10_000 + 12_000 * min(1.0, max(0.0, (weights_mb - 10_000) / 40_000))
    return 0.15 + weights_mb / bandwidth


def wake_discarded_s() -> float:
    """L2 maps memory and reads nothing; `reload_weights` reads."""
    return 0.1


def reload_s(weights_mb: int) -> float:
    return 0.4 + weights_mb / 4000


def llama_load_s(model_mb: int) -> float:
    return 0.5 + model_mb / DISK_MB_S


def llama_unload_s() -> float:
    return 0.2


def app_load_s(model_mb: int) -> float:
    return 2.0 + model_mb / DISK_MB_S


def vllm_residue_mb(weights_mb: int, held_mb: int) -> int:
    """What a sleeping vLLM keeps on each GPU: 774 to 1100 MiB, but not most of a tiny one."""
    return min(1100, 774 + int(0.03 * weights_mb), int(0.6 * held_mb))
