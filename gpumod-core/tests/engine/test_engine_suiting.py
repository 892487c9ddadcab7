"""A driver that wants to know its program's version has it asked before the first stop, and suits its launch to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gpumod.domain.run import RunStatus
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.offers import DriverOffer
from gpumod.ports import Answer, Launch
from gpumod.testing.world_drivers import WorldDriver, WorldHost, world_mode, world_service

VERSION = ("world-runtime", "--version")


class Choosy:
    """Wants version 2: version 1 is slower to load, version 0 cannot run it."""

    def questions(self, service: Service, launch: Launch, settings: Settings) -> tuple[tuple[str, ...], ...]:
        return ((launch.argv[0], "--version"),)

    def suited(self, service: Service, launch: Launch, answers: Sequence[Answer]) -> Launch:
        (version,) = answers
        if version.output == "0":
            raise ValueError(f"service {service.id!r} needs world-runtime 1 or newer, and this is 0")
        if version.output != "1":
            return launch
        order = json.loads(launch.argv[1])
        order["recipe"]["load_s"] = 7.0
        return launch.model_copy(update={"argv": (launch.argv[0], json.dumps(order))})


class ChoosyDriver(Choosy, WorldDriver):
    name = "choosy"


class ChoosyHost(Choosy, WorldHost):
    name = "choosy-host"


OFFERS = (
    DriverOffer(name="choosy", summary="asks", factory=ChoosyDriver),
    DriverOffer(name="choosy-host", summary="asks, and hosts", factory=ChoosyHost),
)
CHAT = world_service("chat", 3000, 9001)
CODE = world_service("code", 5000, 9002, driver="choosy")
HOST = world_service("host", 0, 9003, driver="world-host")
GUEST = world_service("guest", 1000, host="host", driver="choosy", sleep_mode="unload")


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(9000)
    box.offers = OFFERS
    box.define(CHAT, CODE, HOST, GUEST, world_mode("chat", "chat"), world_mode("code", "code"))
    assert box.switch("chat").exit_code == 0
    box.acts.clear()
    return box


def took_s(box: Any, outcome: Any, service: str) -> float:
    (record,) = [r for r in outcome.run.steps if r.step.service == service and r.step.action == "start"]
    return float(record.seconds)


@pytest.mark.parametrize(("version", "least_s", "most_s"), [("1", 7, 8), ("2", 1, 2), (None, 1, 2)])
def test_what_is_started_is_what_suits_the_program(box, version, least_s, most_s):
    if version:
        box.world.answers[VERSION] = Answer(exit_code=0, output=version)
    outcome = box.switch("code")
    assert outcome.status is RunStatus.DONE
    assert least_s <= took_s(box, outcome, "code") < most_s
    assert box.acts.index("ask world-runtime --version") < box.acts.index("stop chat before")


def test_a_program_that_is_too_old_is_refused_with_nothing_changed(box):
    box.world.answers[VERSION] = Answer(exit_code=0, output="0")
    with pytest.raises(Exception, match="cannot be started as it is defined") as refused:
        box.switch("code")
    assert refused.value.info.code == "bad-service"
    assert refused.value.info.why == "service 'code' needs world-runtime 1 or newer, and this is 0"
    assert box.world.states() == {"chat": "ready"}
    assert not [act for act in box.acts if act.startswith(("stop", "start", "write add_run"))]


def test_one_that_does_not_answer_is_started_as_before(box):
    box.world.answers[VERSION] = Answer(exit_code=None, output="0")
    assert box.switch("code").status is RunStatus.DONE


@pytest.mark.parametrize("running", [False, True])
def test_a_host_is_asked_whether_it_takes_a_member(box, running):
    assert box.start("host").exit_code == 0 if running else True
    box.acts.clear()
    box.world.answers[VERSION] = Answer(exit_code=0, output="0")
    with pytest.raises(Exception, match="cannot be started as it is defined") as refused:
        box.start("guest")
    assert "'guest' needs world-runtime 1" in refused.value.info.why
    assert not [act for act in box.acts if act.startswith(("stop", "start", "write add_run"))]
    box.world.answers[VERSION] = Answer(exit_code=0, output="1")
    assert box.start("guest").exit_code == 0


def test_the_doctor_names_what_its_program_does_not_take(patient):
    patient.box.offers = OFFERS
    patient.box.define(CODE)
    patient.box.world.answers[VERSION] = Answer(exit_code=0, output="0")
    assert "needs world-runtime 1 or newer, and this is 0" in patient.said("service code").message
