"""A port that somebody else has: told as that, with who it is, also by a service that ended because of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from gpumod.domain.errors import Failed
from gpumod.domain.machine import PortUser
from gpumod.domain.run import Handle, RunStatus
from gpumod.engine.preflight import check_ports
from gpumod.ports import Launch
from gpumod.testing.world import Stranger
from gpumod.testing.world_drivers import world_mode, world_service
from gpumod.testing.world_parts import WorldLocal

WEB = world_service("web", 3000, 9001)
SMALL = world_service("small", 0, 9002)


@pytest.fixture
def box(make_box: Any) -> Any:
    """Both take their port only when they are ready, as a uvicorn does, and it is taken just before they start."""
    box = make_box(8000, define=[WEB, SMALL, world_mode("web", "web"), world_mode("small", "small")])
    for service in ("web", "small"):
        box.world.fault(service, "binds-late")
    return box


def switch(box: Any, mode: str, *, healthy: bool) -> tuple[Any, Stranger]:
    """A switch, and the stranger who takes the port between its plan and its first step."""
    strangers: list[Stranger] = []
    port = {"web": 9001, "small": 9002}[mode]

    def take() -> None:
        strangers.append(box.world.foreign(port=port, name="nginx"))
        strangers[0].healthy = healthy

    box.when("write add_run before", take)
    return box.switch(mode), strangers[0]


@pytest.mark.parametrize("mode", ["web", "small"])
def test_a_stranger_that_answers_is_not_taken_for_the_service(box: Any, mode: str) -> None:
    outcome, stranger = switch(box, mode, healthy=True)
    assert (outcome.status, outcome.error.code) == (RunStatus.ROLLED_BACK, "port-taken")
    assert f"is taken by nginx (pid {stranger.pid})" in outcome.error.message
    assert f"gpumod service edit {mode} --port N" in outcome.error.hint
    assert box.world.states() == {}
    assert box.world.strangers == [stranger]
    box.check_sound()


def test_who_has_the_port_is_named_where_the_log_tells_that_it_is_taken(box: Any) -> None:
    box.world.faults["web"] = {}
    outcome, stranger = switch(box, "web", healthy=False)
    assert outcome.error.code == "port-taken"
    assert f"port 9001 of web is taken by nginx (pid {stranger.pid})" in outcome.error.message
    assert outcome.error.why == "address already in use: 9001"
    assert outcome.error.details["log"]


def test_a_stranger_who_is_gone_again_is_not_named(box: Any) -> None:
    box.world.faults["web"] = {}
    box.when("start web after", box.world.strangers.clear)
    outcome, _ = switch(box, "web", healthy=False)
    assert (outcome.error.code, outcome.error.message) == ("port-taken", "web could not start: port taken")


def test_what_ends_just_after_it_answered_says_why(box: Any) -> None:
    box.world.faults["web"] = {"cpu-fallback": 0, "die-after": 2.5}
    outcome = box.switch("web")
    assert (outcome.error.code, outcome.error.why) == ("died-while-starting", "fatal: web met something bad")
    assert outcome.error.details["exit_code"] == 3


def test_a_service_that_binds_late_is_waited_for(box: Any) -> None:
    assert box.switch("web").exit_code == 0
    assert box.world.states() == {"web": "ready"}


class Crowded(WorldLocal):
    """A kernel that tells that this home's web has every port."""

    home_id = ""

    def port_users(self, ports: Collection[int]) -> Mapping[int, PortUser]:
        return {port: PortUser(pid=7, name="python", service="web", home_id=self.home_id) for port in ports}


@pytest.mark.parametrize(("up", "end"), [(True, "`gpumod service stop web` ends it, or "), (False, "end it, or ")])
def test_a_port_that_another_service_of_this_home_has(box: Any, end: str, *, up: bool) -> None:
    if up:
        assert box.switch("web").exit_code == 0
    machine, local = box.machine(), Crowded(box.world)
    local.home_id = machine.home_id
    handle = Handle(service="small", supervisor="process", nonce="", launched=SMALL, started_at=0.0)
    with pytest.raises(Failed) as refused:
        check_ports(replace(machine, local=local), [(handle, Launch(argv=("small",)))], box.observe())
    assert refused.value.info.hint.startswith(end)
    assert ("does not know it any more" in refused.value.info.why) is not up
    assert ("web listens there beside its own port" in refused.value.info.why) is up
