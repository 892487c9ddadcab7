"""What an open run uses is not taken away from it, and who is at work is not said to have left something half-way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.box import Box
from gpumod.domain.errors import Busy, GpumodError, HalfWay, Stale
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import ModeMember
from gpumod.domain.run import RunStatus
from gpumod.engine.change import change
from gpumod.engine.planning import Options, Wanted
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import (
    ApplyParams,
    ModeDelete,
    ModeRef,
    ModeWrite,
    NoParams,
    RecoverParams,
    ServiceRemove,
    ServiceWrite,
    SwitchParams,
)
from gpumod.operations.targets import target_of_mode
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 4000, 9002)
SPARE = world_service("spare", 100, 9003)
MODES = (world_mode("web", "web"), world_mode("code", "code"), world_mode("other", "spare"))


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(8000, define=[WEB, CODE, SPARE, *MODES])
    assert box.switch("web").exit_code == 0
    return box


def gpumod(box: Any) -> Gpumod:
    return Gpumod(box.machine(), bare_tools(presets=preset_tools, check_setting=check_setting))


def ask(box: Any, operation: str, params: Any) -> Any:
    return box.world.clock.run(getattr(gpumod(box), operation)(params))


def during_a_switch(box: Any, operation: str, params: Any) -> tuple[Any, Any]:
    """What an operation of another gpumod answers while a switch to mode code waits for it; and the switch's result."""

    async def both() -> tuple[Any, Any]:
        switch = asyncio.create_task(gpumod(box).switch(SwitchParams(mode="code")))
        await box.world.clock.sleep(0.8)
        assert box.store.open_run() is not None
        try:
            answer = await getattr(gpumod(box), operation)(params)
        except GpumodError as error:
            answer = error
        return answer, await switch

    answers: tuple[Any, Any] = box.world.clock.run(both())
    return answers


def without_mode_code(box: Any) -> ApplyParams:
    """A document of what is defined but mode code; what it does not name is removed."""
    modes = {m: found for m, found in box.store.modes().items() if m != "code"}
    text = preset_tools().dump_box(Box(box.store.services(), modes, {}))
    return ApplyParams(text=text, source="box.yaml", prune=True)


TAKEN = [
    ("mode_delete", lambda _: ModeDelete(mode="code")),
    ("service_remove", lambda _: ServiceRemove(service="code", cascade=True)),
    ("service_remove", lambda _: ServiceRemove(service="web", cascade=True)),  # it is brought back if the run fails
    ("apply", without_mode_code),
]


@pytest.mark.parametrize(("operation", "params"), TAKEN)
def test_what_a_run_uses_is_not_taken_away(box: Any, operation: str, params: Any) -> None:
    modes, services = box.store.modes(), box.store.services()
    refused, switched = during_a_switch(box, operation, params(box))
    assert isinstance(refused, Busy), refused
    assert (refused.code, refused.exit_code) == ("machine-busy", 5)
    assert "somebody is changing this machine: switch code" in refused.info.message
    assert (switched.status, switched.mode_now) == (RunStatus.DONE, "code")
    assert (box.store.modes(), box.store.services()) == (modes, services)
    box.check_sound()


def test_what_it_does_not_use_may_go_and_definitions_may_be_edited(box: Any) -> None:
    deleted, _ = during_a_switch(box, "mode_delete", ModeDelete(mode="other"))
    assert deleted.id == "other"
    box.switch("web")
    removed, _ = during_a_switch(box, "service_remove", ServiceRemove(service="spare"))
    assert removed.id == "spare"
    box.switch("web")
    edited, switched = during_a_switch(box, "mode_edit", ModeWrite(id="code", members=(ModeMember(service="web"),)))
    assert (edited.services, switched.status) == (("web",), RunStatus.DONE)
    assert box.world.states() == {"code": "ready"}
    box.define(MODES[1])
    box.switch("web")
    edited, switched = during_a_switch(box, "service_edit", ServiceWrite(id="web", fields={"name": "Web"}))
    assert box.store.services()["web"].name == "Web"


@pytest.mark.parametrize(("operation", "params"), TAKEN[:2])
def test_nor_from_one_that_was_left_half_way(box: Any, operation: str, params: Any) -> None:
    box.world.fault("code", "die-after", 1.0)
    assert box.switch("code", rollback=False).status is RunStatus.HALF_WAY
    with pytest.raises(HalfWay, match="was left half-way") as refused:
        ask(box, operation, params(box))
    assert "gpumod recover --resume" in refused.value.info.hint
    box.world.faults.clear()
    assert box.recover("resume").exit_code == 0
    assert box.store.current_mode() == "code"


def test_a_mode_that_is_deleted_while_its_switch_is_planned(box: Any) -> None:
    """The run has not begun: nothing is changed, and no mode is recorded that is not there."""
    event = box.store.events(1)[0]

    def build(_: HostSnapshot) -> Wanted:
        wanted = Wanted(target_of_mode(box.store.modes()["code"]), box.store.services())
        box.store.delete_mode("code", event=event)
        return wanted

    with pytest.raises(Stale) as stale:
        box.world.clock.run(change(box.machine(), "switch code", build, Options(), lambda _: None))
    assert stale.value.code == "mode-deleted"
    assert box.world.states() == {"web": "ready"}
    assert (box.store.open_run(), box.store.current_mode(), box.world.holder) == (None, "web", None)


# --- who is at work ---------------------------------------------------------------------------------------------------


def test_recover_names_who_is_at_work(box: Any) -> None:
    told, switched = during_a_switch(box, "recover", RecoverParams())
    assert told.open_run is None
    assert told.busy == "switch code (pid 1, somebody)"
    assert switched.status is RunStatus.DONE
    assert ask(box, "recover", RecoverParams()).busy is None


def test_a_run_of_this_home_is_half_way_whatever_another_home_does(box: Any, tmp_path: Path) -> None:
    box.world.fault("code", "die-after", 1.0)
    box.switch("code", rollback=False)
    box.world.holder = Holder(pid=7, user="else", command="switch x", home=str(tmp_path / "else"), since=0.0)
    told, status = ask(box, "recover", RecoverParams()), ask(box, "status", NoParams())
    assert told.open_run.id == status.open_run == box.store.open_run().id
    assert told.busy == status.busy == "switch x (pid 7, else)"


# --- what a mode needs ------------------------------------------------------------------------------------------------


def test_a_host_that_is_down_is_not_up_beside_the_mode(make_box: Any) -> None:
    router = world_service("router", 0, 9000, driver="world-host")
    hyde = world_service("hyde", 2000, host="router", sleep_mode="unload")
    box = make_box(8000, define=[router, hyde, SPARE, world_mode("hosted", "hyde")])
    told = ask(box, "mode_verify", ModeRef(mode="hosted"))
    assert (told.whole, told.extra) == (False, ())
    rows = {m.service: (m.ok, m.state, m.detail) for m in told.members}
    assert rows["router"] == (False, "stopped", "is stopped; it should start: needed by hyde")
    box.switch("hosted")
    told = ask(box, "mode_verify", ModeRef(mode="hosted"))
    assert (told.whole, [m.service for m in told.members]) == (True, ["hyde"])
    box.start("spare")
    assert ask(box, "mode_verify", ModeRef(mode="hosted")).extra == ("spare",)
    box.world.crash("spare")
    told = ask(box, "mode_verify", ModeRef(mode="hosted"))
    assert (told.whole, told.extra) == (False, ())
    assert told.notes[0].startswith("spare is failed")
