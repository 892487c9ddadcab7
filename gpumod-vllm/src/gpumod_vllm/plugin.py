"""What gpumod-vllm offers. The heavy parts are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumod.api import (
    Driver,
    DriverOffer,
    SleepStrategy,
    SleepStrategyOffer,
    TemplatesOffer,
    VramEstimator,
    VramEstimatorOffer,
    hookimpl,
)


def _driver() -> Driver:
    from gpumod_vllm.driver import VllmDriver  # noqa: PLC0415  # lazy on purpose, as below

    return VllmDriver()


def _l1() -> SleepStrategy:
    from gpumod_vllm.sleep import L1Sleep  # noqa: PLC0415 - only who uses it pays for the import

    return L1Sleep()


def _l2() -> SleepStrategy:
    from gpumod_vllm.sleep import L2Sleep  # noqa: PLC0415 - only who uses it pays for the import

    return L2Sleep()


def _estimator() -> VramEstimator:
    from gpumod_vllm.estimator import VllmEstimator  # noqa: PLC0415 - only who uses it pays for the import

    return VllmEstimator()


@hookimpl
def gpumod_drivers() -> Iterable[DriverOffer]:
    return [DriverOffer(name="vllm", summary="vLLM: one model per service, with L1 and L2 sleep", factory=_driver)]


@hookimpl
def gpumod_sleep_strategies() -> Iterable[SleepStrategyOffer]:
    return [
        SleepStrategyOffer(name="l1", summary="weights to host RAM, KV cache dropped", drivers=("vllm",), factory=_l1),
        SleepStrategyOffer(name="l2", summary="weights and KV cache dropped", drivers=("vllm",), factory=_l2),
    ]


@hookimpl
def gpumod_vram_estimators() -> Iterable[VramEstimatorOffer]:
    summary = "what gpu_memory_utilization or kv_cache_memory_bytes comes to, where one is given"
    return [VramEstimatorOffer(name="vllm", summary=summary, drivers=("vllm",), factory=_estimator)]


@hookimpl
def gpumod_templates() -> Iterable[TemplatesOffer]:
    folder = Path(__file__).parent / "templates"
    return [TemplatesOffer(name="vllm", summary="systemd unit of a vLLM", folder=folder)]
