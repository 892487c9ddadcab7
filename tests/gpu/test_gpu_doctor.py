"""`gpumod doctor` and `gpumod init` tell the real card."""

from __future__ import annotations

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import Home, card

pytestmark = pytest.mark.gpu_required


def test_the_doctor_tells_the_card_and_its_driver(probe: NvmlProbe, home: Home) -> None:
    _, told = home.gpumod("doctor")
    gpu = card(probe)
    checks = [check for check in told["checks"] if check["name"] in (f"gpu {gpu.index}", "driver")]
    messages = "\n".join(check["message"] for check in checks)
    assert gpu.name in messages
    assert gpu.uuid in messages
    assert gpu.architecture in messages
    assert any(check["name"] == "driver" and check["message"].startswith("driver ") for check in checks)
    assert [check for check in checks if check["level"] == "problem"] == []
