"""The plugin's offers keep what every driver and sleep strategy promises."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.api import Service
from gpumod.testing import DriverCase, DriverSuite, SleepCase, SleepStrategySuite
from gpumod.testing.web import Answer, Call
from gpumod_llamacpp import plugin

SINGLE = Service(
    id="glm",
    driver="llamacpp",
    port=8002,
    vram_mb=19_100,
    model_path="/models/glm.gguf",
    context_size=32_768,
    kv_cache_per_1k=170,
    unit_vars={"parallel": 2, "cache_type_v": "q8_0", "extra_args": ["--jinja"]},
)
FROM_HUB = SINGLE.model_copy(update={"id": "hub", "model_path": None, "model_id": "org/repo:Q4_K_M"})
ROUTER = Service(id="router", driver="llamacpp", port=8003, unit_vars={"router": True})
MEMBERS = [
    Service(
        id=name, driver="llamacpp", host="router", vram_mb=5000, model_path=f"/models/{name}.gguf", sleep_mode="router"
    )
    for name in ("hyde", "chat")
]


class TestLlamaCppDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        (offer,) = plugin.gpumod_drivers()
        (router,) = plugin.gpumod_sleep_strategies()
        services = [SINGLE, FROM_HUB, ROUTER, *MEMBERS]
        return DriverCase(offer.factory(), services, {router.name: router.factory()})


class Router:
    """A router with one member, which is loaded and unloaded as it is told."""

    def __init__(self) -> None:
        self.loaded = True

    def __call__(self, call: Call) -> Answer:
        if call.method == "POST":
            self.loaded = call.path.endswith("/load")
            return 200, {"success": True}
        if call.path == "/models":
            status: dict[str, Any] = {"value": "loaded" if self.loaded else "unloaded", "args": [], "preset": ""}
            return 200, {"data": [{"id": "hyde", "status": status}]}
        if call.path == "/props" and not self.loaded:
            return 400, {"error": {"message": "model is not loaded"}}
        return 200, "llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"


class TestRouterSleep(SleepStrategySuite):
    @pytest.fixture
    def case(self) -> SleepCase:
        (driver,) = plugin.gpumod_drivers()
        (router,) = plugin.gpumod_sleep_strategies()
        return SleepCase(router.factory(), MEMBERS[0], Router, driver.factory())
