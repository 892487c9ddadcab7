"""The driver of containers keeps what every driver promises; its supervisor's suite needs an engine (tests/docker)."""

from __future__ import annotations

import pytest

from gpumod.api import Service
from gpumod.testing import DriverCase, DriverSuite
from gpumod_docker import plugin

OLLAMA = Service(
    id="ollama",
    driver="docker",
    port=11_434,
    vram_mb=6000,
    unit_vars={"image": "ollama/ollama", "ports": ["{port}:11434"]},
)
TOLD = OLLAMA.model_copy(
    update={
        "id": "told",
        "model_id": "org/model",
        "unit_vars": {"image": "org/serve:1", "command": ["--port", "{port}", "--model={model_id}"]},
    }
)


class TestDockerDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        (offer,) = plugin.gpumod_drivers()
        return DriverCase(offer.factory(), [OLLAMA, TOLD])
