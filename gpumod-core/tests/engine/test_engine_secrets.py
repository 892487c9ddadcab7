"""Secrets that a service would not run with are refused before anything is stopped, and never told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from gpumod.domain.errors import GpumodError, UsageError
from gpumod.domain.service import Service
from gpumod.operations.params import SecretWrite
from gpumod.plugins.offers import DriverOffer
from gpumod.testing.world_drivers import WorldDriver, world_mode, world_service

KEY = "hunter22-key"


class Keyless(WorldDriver):
    name = "keyless"

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None:
        if "API_KEY" in variables:
            raise ValueError(f"service {service.id!r}: API_KEY={variables['API_KEY']} would lock gpumod out")


OFFERS = (DriverOffer(name="keyless", summary="takes no key", factory=Keyless),)
CHAT = world_service("chat", 3000, 9001)
CODE = world_service("code", 5000, 9002, driver="keyless")


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(6000)
    box.offers = OFFERS
    box.define(CHAT, CODE, world_mode("chat", "chat"), world_mode("code", "code"))
    assert box.switch("chat").exit_code == 0
    box.acts.clear()
    return box


def put(box: Any, service: str, name: str) -> None:
    box.ask("secret_set", SecretWrite(service=service, name=name, value=SecretStr(KEY)))


def test_one_that_would_break_its_service_is_not_taken(box):
    with pytest.raises(UsageError) as refused:
        put(box, "code", "API_KEY")
    info = refused.value.info
    assert (info.code, info.message) == ("bad-secret", "API_KEY cannot be a secret of code")
    assert info.why == "service 'code': API_KEY=(secret) would lock gpumod out"
    assert KEY not in info.model_dump_json()
    assert box.world.secrets == {}
    with pytest.raises(UsageError) as refused:
        put(box, "code", "CUDA_VISIBLE_DEVICES")
    assert "gpumod sets it" in refused.value.info.why
    put(box, "code", "HF_TOKEN")
    put(box, "chat", "API_KEY")
    assert box.switch("code").exit_code == 0


def test_one_that_is_there_is_refused_with_nothing_changed(box):
    """It was set before an upgrade, or before the service was defined anew."""
    box.world.secrets["code"] = {"API_KEY": KEY}
    with pytest.raises(GpumodError) as refused:
        box.switch("code")
    info = refused.value.info
    assert (info.code, info.hint) == ("bad-secret", "gpumod service secret remove code NAME")
    assert "(secret) would lock gpumod out" in info.why
    assert KEY not in info.model_dump_json()
    assert box.world.states() == {"chat": "ready"}
    assert not [act for act in box.acts if act.startswith(("stop", "start", "write add_run"))]


def test_the_doctor_names_it(patient):
    patient.box.offers = OFFERS
    patient.box.define(CODE)
    patient.box.world.secrets["code"] = {"API_KEY": KEY}
    said = patient.said("service code")
    assert said.level == "problem"
    assert "code cannot be started with its secrets" in said.message
    assert KEY not in said.model_dump_json()
