"""The driver keeps what every driver promises."""

from __future__ import annotations

import pytest

import gpumod_sglang
from gpumod.api import Allocation, GpuShare, Service, Settings
from gpumod.testing import DriverCase, DriverSuite

CHAT = Service(id="chat", driver="sglang", port=30_000, vram_mb=20_000, model_id="Qwen/Qwen3-8B", context_size=8192)
WIDE = CHAT.model_copy(update={"id": "wide", "gpus": (0, 1), "unit_vars": {"extra_args": "--dtype half"}})


class TestSglangDriver(DriverSuite):
    @pytest.fixture
    def case(self) -> DriverCase:
        (offer,) = gpumod_sglang.gpumod_drivers()
        return DriverCase(offer.factory(), [CHAT, WIDE])


def test_it_takes_its_share_of_the_card() -> None:
    card = GpuShare(index=0, total_mb=25_000, budget_mb=24_000, vram_mb=20_000)
    launch = gpumod_sglang.SglangDriver().launch(CHAT, Allocation(gpus=(card,)), Settings())
    assert launch.argv == (
        "python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B", "--host", "127.0.0.1",
        "--port", "30000", "--mem-fraction-static", "0.8000", "--context-length", "8192",
    )  # fmt: skip
    two = Allocation(gpus=(card, card.model_copy(update={"index": 1})))
    assert gpumod_sglang.SglangDriver().launch(WIDE, two, Settings()).argv[-4:] == ("--tp", "2", "--dtype", "half")
