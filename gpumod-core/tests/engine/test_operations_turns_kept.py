"""What somebody has a turn with, and what that needs, is taken away by no verb, unless it is forced."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import Busy, GpumodError
from gpumod.domain.run import RunStatus
from gpumod.operations.params import (
    ApplyParams,
    FreeParams,
    ModeRef,
    NoParams,
    ServiceChange,
    ServiceRemove,
    SimulateParams,
    SwitchParams,
)
from gpumod.operations.use_results import TurnParams
from gpumod.testing.world_drivers import quick_service, world_mode

BOTH = {"base": "ready", "hyde": "ready"}
SERVICES = (
    quick_service("base", 500, 9001, naps=True),
    quick_service("hyde", 4000, 9002, naps=True, depends_on=("base",)),
    quick_service("rank", 1000, 9003, naps=True),
    quick_service("loose", 500, 9004, naps=True),
)
MODES = (
    world_mode("rag", "base", "hyde:time-shared", "rank:time-shared"),
    world_mode("low", "base:asleep", "hyde:asleep"),
    world_mode("blank"),
)
TAKES = [
    ("service_stop", {"service": "base", "cascade": True}),
    ("service_restart", {"service": "hyde", "cascade": True}),
    ("service_sleep", {"service": "hyde"}),
    ("service_wake", {"service": "rank"}),
]
MORE = [
    pytest.param("service_stop", {"service": "hyde"}, marks=pytest.mark.slow),
    pytest.param("service_stop", {"service": "hyde", "cascade": True}, marks=pytest.mark.slow),
    pytest.param("service_restart", {"service": "base", "cascade": True}, marks=pytest.mark.slow),
    pytest.param("service_sleep", {"service": "base"}, marks=pytest.mark.slow),
    pytest.param("service_start", {"service": "rank"}, marks=pytest.mark.slow),
]


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[*SERVICES, *MODES])
    made.switch("rag")
    made.ask("service_turn", TurnParams(service="hyde", pid=7))
    return made


def taken(box: Any, operation: str, params: Any) -> Busy:
    """The refusal, with everything as it was."""
    before = box.world.states()
    with pytest.raises(Busy) as caught:
        box.ask(operation, params, presets=preset_tools, check_setting=check_setting)
    assert (caught.value.code, caught.value.exit_code) == ("leased", 5)
    assert caught.value.info.why.startswith("the turn of somebody (pid 7)")
    assert "gpumod service stop hyde --force" in caught.value.info.hint
    assert box.world.states() == before
    assert box.store.open_run() is None
    return caught.value


@pytest.mark.parametrize(("operation", "asked"), TAKES + MORE)
def test_no_verb_of_a_service_takes_a_turn_away(box: Any, operation: str, asked: dict[str, Any]) -> None:
    for more in ({}, {"dry_run": True}):
        taken(box, operation, ServiceChange(**asked, **more))
    forced = box.ask(operation, ServiceChange(**asked, force=True))
    assert (forced.status, forced.exit_code) == (RunStatus.DONE, 0)
    assert "passed over: somebody (pid 7) has a turn with hyde" in forced.notes


def test_what_a_turn_needs_is_named_with_it(box: Any) -> None:
    error = taken(box, "service_sleep", ServiceChange(service="base"))
    assert error.info.message == "base cannot be put to sleep now"
    assert error.info.why == "the turn of somebody (pid 7) with hyde needs it"


def test_a_definition_in_use_is_not_removed(box: Any) -> None:
    taken(box, "service_remove", ServiceRemove(service="hyde", stop=True, cascade=True))
    assert "hyde" in box.store.services()


def test_new_definitions_wait_for_a_turn(box: Any) -> None:
    tools = {"presets": preset_tools, "check_setting": check_setting}
    data = yaml.safe_load(box.ask("export", NoParams(), **tools).yaml)
    next(entry for entry in data["services"] if entry["id"] == "hyde")["port"] = 9012
    text = yaml.safe_dump(data)
    taken(box, "apply", ApplyParams(text=text, source="box.yaml", now=True))
    taken(box, "apply", ApplyParams(text=text, source="box.yaml", now=True, dry_run=True))
    done = box.ask("apply", ApplyParams(text=text, source="box.yaml", now=True, force=True), **tools)
    assert any(note.startswith("passed over") for note in done.change.notes)


@pytest.mark.parametrize("mode", ["low", "blank"])
def test_a_switch_keeps_awake_what_is_in_use_and_what_that_needs(box: Any, mode: str) -> None:
    switched = box.ask("switch", SwitchParams(mode=mode))
    assert (switched.status, switched.mode_now) == (RunStatus.DONE, mode)
    assert {s: state for s, state in box.world.states().items() if s != "rank"} == BOTH
    assert any("the turn of somebody (pid 7)" in note for note in switched.notes)
    forced = box.ask("switch", SwitchParams(mode=mode, force=True))
    assert "passed over: somebody (pid 7) has a turn with hyde" in forced.notes
    assert "ready" not in box.world.states().values()


@pytest.mark.slow
def test_room_is_made_without_what_is_in_use(box: Any) -> None:
    with pytest.raises(GpumodError, match="can give at most") as caught:
        box.ask("free", FreeParams(mb=7000))
    assert "the turn of somebody (pid 7)" in caught.value.info.why
    forced = box.ask("free", FreeParams(mb=7000, force=True)).change
    assert "passed over: somebody (pid 7) has a turn with hyde" in forced.notes


def test_what_only_looks_is_refused_nothing(box: Any) -> None:
    assert box.ask("mode_status", ModeRef(mode="rag")).whole
    assert box.ask("simulate", SimulateParams(mode="blank")).fits
    box.define(quick_service("hyde", 4100, 9002, naps=True, depends_on=("base",)))
    assert box.ask("mode_status", ModeRef(mode="rag")).notes


def test_what_died_during_a_turn_may_be_cleared_away(box: Any) -> None:
    box.crash("hyde")
    assert box.ask("service_stop", ServiceChange(service="hyde")).status is RunStatus.DONE
    assert box.ask("service_sleep", ServiceChange(service="base")).status is RunStatus.DONE


def test_who_has_a_turn_may_have_their_own_service_started_anew(box: Any) -> None:
    first_turn = box.store.turns()[0].id
    box.ask("service_turn", TurnParams(end=first_turn))
    box.start("hyde")
    box.world.fault("hyde", "hang")
    again = box.ask("service_turn", TurnParams(service="hyde", pid=8))
    assert [step.action for step in again.change.steps][:2] == ["stop", "start"]
