"""The plugin's offers keep what every driver and sleep strategy promises."""

from __future__ import annotations

import pytest

from gpumod.api import Service
from gpumod.testing import DriverCase, DriverSuite, SleepCase, SleepStrategySuite
from gpumod.testing.web import Answer, Call
from gpumod_fastapi import plugin

COMMAND = ["uvicorn", "app:app", "--host", "{host}", "--port", "{port}"]
ASR = Service(id="asr", driver="fastapi", port=8001, vram_mb=6000, unit_vars={"command": COMMAND, "env": {"A": "1"}})
ENDPOINTS = {"command": COMMAND, "sleep_path": "/sleep", "wake_path": "/wake", "activity_path": "/activity"}
SLEEPER = ASR.model_copy(update={"id": "sleeper", "sleep_mode": "http", "unit_vars": ENDPOINTS})
BY_VARIABLE = ASR.model_copy(update={"id": "plain", "unit_vars": {"command": "./serve --quiet", "health_status": 204}})
OLLAMA = Service(id="ollama", driver="ollama", port=11_434, unit_vars={"context_length": 8192, "env": {"A": "1"}})
OF_OLLAMA = [
    Service(id=name, driver="ollama", host="ollama", vram_mb=5000, model_id=f"{name}:8b", sleep_mode="unload")
    for name in ("llama3", "qwen3")
]
EXAMPLES = {"fastapi": [ASR, SLEEPER, BY_VARIABLE], "ollama": [OLLAMA, *OF_OLLAMA]}
DRIVERS = {offer.name: offer for offer in plugin.gpumod_drivers()}
LEVELS = {offer.name: offer for offer in plugin.gpumod_sleep_strategies()}


@pytest.mark.parametrize("name", DRIVERS, scope="class")
class TestDriversOfServicesOfOnesOwn(DriverSuite):
    @pytest.fixture
    def case(self, name: str) -> DriverCase:
        strategies = {level: offer.factory() for level, offer in LEVELS.items() if name in offer.drivers}
        return DriverCase(DRIVERS[name].factory(), EXAMPLES[name], strategies)


class App:
    """A service that sleeps and wakes as it is told, and says so."""

    def __init__(self) -> None:
        self.asleep = False

    def __call__(self, call: Call) -> Answer:
        if call.method == "POST":
            self.asleep = call.path == "/sleep"
        return 200, {"in_flight": 0} if call.path == "/activity" else {"sleeping": self.asleep}


NAPS = {"http": (SLEEPER, App), "unload": (OF_OLLAMA[0], None)}


@pytest.mark.parametrize("level", LEVELS, scope="class")
class TestSleepOfServicesOfOnesOwn(SleepStrategySuite):
    @pytest.fixture
    def case(self, level: str) -> SleepCase:
        service, server = NAPS[level]
        return SleepCase(LEVELS[level].factory(), service, server, DRIVERS[service.driver].factory())
