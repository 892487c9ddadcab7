"""The plugin's offers keep what every driver, sleep strategy and estimator promises."""

from __future__ import annotations

import pytest

from gpumod.api import Service, SleepStrategyOffer
from gpumod.testing import DriverCase, DriverSuite, EstimatorCase, EstimatorSuite, SleepCase, SleepStrategySuite
from gpumod.testing.web import Answer, Call
from gpumod_vllm import plugin

PLAIN = Service(
    id="emb",
    driver="vllm",
    port=8001,
    vram_mb=2500,
    model_id="Qwen/Qwen3-Embedding-0.6B",
    context_size=8192,
    kv_cache_per_1k=110,
    unit_vars={"runner": "pooling", "extra_args": ["--seed", "7"]},
)
FIXED = PLAIN.model_copy(update={"id": "fixed", "unit_vars": {"gpu_memory_utilization": 0.4, "dtype": "auto"}})
WIDE = PLAIN.model_copy(update={"id": "wide", "gpus": (0, 1), "unit_vars": {"kv_cache_memory_bytes": 2**30}})
SLEEPERS = {
    level: PLAIN.model_copy(update={"id": level, "sleep_mode": level, "unit_vars": {}}) for level in ("l1", "l2")
}
STRATEGIES: dict[str, SleepStrategyOffer] = {offer.name: offer for offer in plugin.gpumod_sleep_strategies()}


class TestVllmDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        (offer,) = plugin.gpumod_drivers()
        strategies = {level: made.factory() for level, made in STRATEGIES.items()}
        return DriverCase(offer.factory(), [PLAIN, FIXED, WIDE, *SLEEPERS.values()], strategies)


class Engine:
    """An embedding model's server as vLLM serves one: asleep by parts."""

    def __init__(self) -> None:
        self.asleep: set[str] = set()

    def __call__(self, call: Call) -> Answer:
        query = dict(call.query)
        if call.path == "/sleep":
            self.asleep = {"weights", "kv_cache"}
        elif call.path == "/wake_up":
            self.asleep -= {query["tags"]} if "tags" in query else {"weights", "kv_cache"}
        answers: dict[str, Answer] = {
            "/is_sleeping": (200, {"is_sleeping": bool(self.asleep)}),
            "/v1/embeddings": (200, {"data": [{"embedding": [0.1, -0.2]}]}),
            "/v1/completions": (400, {"error": "no"}),
            "/collective_rpc": (200, {"results": [None]}),
        }
        return answers.get(call.path, (200, b""))


class TestVllmSleep(SleepStrategySuite):
    @pytest.fixture(params=sorted(SLEEPERS))
    def case(self, request: pytest.FixtureRequest) -> SleepCase:
        (driver,) = plugin.gpumod_drivers()
        level = request.param
        return SleepCase(STRATEGIES[level].factory(), SLEEPERS[level], Engine, driver.factory())


class TestVllmEstimator(EstimatorSuite):
    @pytest.fixture
    def case(self) -> EstimatorCase:
        (offer,) = plugin.gpumod_vram_estimators()
        return EstimatorCase(offer.name, offer.factory(), [FIXED, PLAIN, WIDE])
