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


class TestFastApiDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        (offer,) = plugin.gpumod_drivers()
        (http,) = plugin.gpumod_sleep_strategies()
        return DriverCase(offer.factory(), [ASR, SLEEPER, BY_VARIABLE], {http.name: http.factory()})


class App:
    """A service that sleeps and wakes as it is told, and says so."""

    def __init__(self) -> None:
        self.asleep = False

    def __call__(self, call: Call) -> Answer:
        if call.method == "POST":
            self.asleep = call.path == "/sleep"
        return 200, {"in_flight": 0} if call.path == "/activity" else {"sleeping": self.asleep}


class TestHttpSleep(SleepStrategySuite):
    @pytest.fixture
    def case(self) -> SleepCase:
        (driver,) = plugin.gpumod_drivers()
        (http,) = plugin.gpumod_sleep_strategies()
        return SleepCase(http.factory(), SLEEPER, App, driver.factory())
