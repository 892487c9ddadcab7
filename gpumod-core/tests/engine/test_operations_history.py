"""What history shows: the run that is meant, and never a secret; nor do definitions that are shown."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import GpumodError, UsageError
from gpumod.domain.plan import Plan, Target, VerdictKind
from gpumod.domain.run import Run, RunStatus
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import (
    ApplyParams,
    DiffParams,
    ListParams,
    NoParams,
    RecoverParams,
    RunRef,
    ServiceRef,
    ServiceWrite,
    SimulateParams,
)
from gpumod.plugins.offers import DriverOffer
from gpumod.ports import Allocation, Capabilities, Launch
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import WorldDriver, world_mode, world_service

SECRET = "hunter2"
VARS = {"env": {"HF_TOKEN": SECRET, "A": "1"}, "args": ["--api-key", SECRET, "-x"], "cmd": f"run --token {SECRET}"}


class OpenDriver(WorldDriver):
    """A driver that takes any option, and makes nothing of it."""

    name = "open"

    def check(self, service: Service) -> None:
        """Whatever they are."""

    def capabilities(self, service: Service) -> Capabilities:
        return super().capabilities(_plain(service))

    def launch(self, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        return super().launch(_plain(service), allocation, settings)


def _plain(service: Service) -> Service:
    return service.model_copy(update={"unit_vars": {}})


def ask(box: Any, operation: str, params: Any) -> Any:
    return box.world.clock.run(getattr(Gpumod(box.machine(), bare_tools(presets=preset_tools)), operation)(params))


def show(box: Any, run: str) -> Any:
    return ask(box, "history_show", RunRef(run=run)).run


# --- which run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(make_box: Any) -> Any:
    """Three runs, of which the id of one is the beginning of another's."""
    box = make_box(8000)
    plan = Plan(id="p", target=Target(), verdict=VerdictKind.FITS)
    for name in ("19a-1", "19a-12", "2b-3"):
        run = Run(id=name, command=name, holder="me", status=RunStatus.DONE, target=Target(), plan=plan, started_at=1.0)
        box.store.add_run(run)
    return box


@pytest.mark.parametrize(
    ("named", "found"), [("last", "2b-3"), ("2", "2b-3"), ("2b-3", "2b-3"), ("19a-1", "19a-1"), ("19a-12", "19a-12")]
)
def test_a_run_is_found_by_the_beginning_of_its_id(runs: Any, named: str, found: str) -> None:
    assert show(runs, named).id == found


@pytest.mark.parametrize("named", ["3", "%", "_9a-1", "19a-1%", "\\", "'", "", "\udcff", "x\0y", "19a-123"])
def test_what_begins_no_id_is_unknown(runs: Any, named: str) -> None:
    with pytest.raises(GpumodError) as caught:
        show(runs, named)
    assert caught.value.code == "unknown-run"
    assert "19a-12" in caught.value.info.why


def test_what_begins_several_ids_names_them(runs: Any) -> None:
    with pytest.raises(UsageError) as caught:
        show(runs, "19a")
    assert (caught.value.code, caught.value.info.why) == ("ambiguous-run", "19a-12, 19a-1")


def test_where_nothing_was_done_there_is_no_last_run(make_box: Any) -> None:
    with pytest.raises(GpumodError) as caught:
        show(make_box(8000), "last")
    assert caught.value.code == "unknown-run"


def test_a_run_is_found_without_reading_the_others(runs: Any) -> None:
    with runs.store._db.write() as session:  # as somebody would do by hand
        session.connection().exec_driver_sql("UPDATE runs SET definition = 'no' WHERE id != '2b-3'")
    assert show(runs, "last").id == show(runs, "2").id == "2b-3"
    with pytest.raises(GpumodError) as caught:
        show(runs, "19a-12")
    assert caught.value.code == "bad-row"


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(8000)
    box.offers = (DriverOffer(name="open", summary="takes any option", factory=OpenDriver),)
    held = world_service("web", 3000, 9001).model_copy(update={"driver": "open", "unit_vars": VARS})
    box.define(held, world_service("code", 4000, 9002), world_mode("on", "web"), world_mode("both", "web", "code"))
    return box


def events(box: Any) -> Any:
    return ask(box, "history_list", ListParams(limit=100))


def test_an_edit_tells_what_changed_without_the_secrets(box: Any) -> None:
    changed = {"env": {"HF_TOKEN": "hunter3", "A": "2"}, "args": ["--api-key", "hunter3"], "cmd": "run"}
    ask(box, "service_edit", ServiceWrite(id="web", unit_vars=changed, fields={"name": "Web"}))
    told = next(event for event in events(box).events if event.kind == "service-edited")
    assert "hunter" not in told.model_dump_json()
    assert told.data == {
        "name": {"old": "", "new": "Web"},
        "unit_vars.env.HF_TOKEN": {"old": "(secret)", "new": "(secret)"},
        "unit_vars.env.A": {"old": "1", "new": "2"},
        "unit_vars.args": {"old": ["-x", "(secret)"], "new": ["(secret)"]},
        "unit_vars.cmd": {"old": "run (secret)", "new": "run"},
    }
    assert box.store.services()["web"].unit_vars == changed


def test_no_definition_is_shown_with_its_secrets(box: Any) -> None:
    edited = ask(box, "service_edit", ServiceWrite(id="web", fields={"name": "Web"}))
    shown, listed = ask(box, "service_show", ServiceRef(service="web")), ask(box, "service_list", NoParams())
    for told in (edited, shown, listed):
        assert SECRET not in told.model_dump_json()
    assert shown.service.unit_vars["env"] == {"HF_TOKEN": "(secret)", "A": "1"}
    assert shown.notes == edited.notes
    assert "env.HF_TOKEN" in shown.notes[0]
    assert "`gpumod service secret set web HF_TOKEN`" in shown.notes[0]
    assert ask(box, "service_show", ServiceRef(service="code")).notes == ()
    assert box.store.services()["web"].unit_vars == VARS


def test_a_document_that_sets_a_secret_is_told_so(box: Any) -> None:
    text = ask(box, "export", NoParams()).yaml
    same = ask(box, "diff", DiffParams(text=text, source="box.yaml"))
    assert (same.changes, same.notes) == ((), ())
    text = text.replace("unit_vars:\n", f"unit_vars:\n    api_key: {SECRET}\n", 1)
    told = ask(box, "apply", ApplyParams(text=text, source="box.yaml"))
    assert told.applied
    assert "web holds a secret in api_key" in told.notes[0]
    assert SECRET not in told.model_dump_json()
    assert box.store.services()["web"].unit_vars == {**VARS, "api_key": SECRET}


def test_what_stands_for_a_secret_is_not_taken_for_one(box: Any) -> None:
    shown = ask(box, "service_show", ServiceRef(service="web")).service.unit_vars
    with pytest.raises(UsageError) as refused:
        ask(box, "service_edit", ServiceWrite(id="web", unit_vars={"env": shown["env"] | {"A": "2"}}, fields={}))
    assert refused.value.code == "hidden-value"
    assert "service secret set web" in refused.value.info.hint
    assert box.store.services()["web"].unit_vars == VARS


def test_nothing_that_is_told_of_a_run_holds_a_secret(box: Any) -> None:
    box.switch("on")
    box.world.fault("code", "oom-at-start")
    half_way = box.switch("both", rollback=False)
    assert half_way.exit_code == 7
    stored = box.store.runs(1)[0]
    assert SECRET in stored.before["web"].model_dump_json()
    shown = show(box, "last")
    open_run = ask(box, "recover", RecoverParams()).open_run
    for told in (shown, open_run, events(box), ask(box, "simulate", SimulateParams(mode="both"))):
        assert SECRET not in told.model_dump_json()
    assert open_run == shown
    assert shown.definitions["web"].unit_vars["env"] == {"HF_TOKEN": "(secret)", "A": "1"}
    assert shown.model_dump(exclude={"before", "definitions", "wanted"}) == stored.model_dump(
        exclude={"before", "definitions", "wanted"}
    )
    box.recover("rollback")
    assert box.store.handles()["web"].launched.unit_vars == VARS
