"""export, diff and apply over a world: idempotent, all or nothing, and nothing restarts unless it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.box import Box
from gpumod.domain.errors import Busy, Failed, UsageError
from gpumod.domain.run import Event
from gpumod.operations.box_results import ApplyResult, DiffResult
from gpumod.operations.differences import differences
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ApplyParams, DiffParams, NoParams, ServiceWrite, SettingWrite
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 4000, 9002, naps=True, depends_on=("web",))
EXTRA = world_service("extra", 500, 9003)
EVENT = Event(at=0.0, kind="test", subject="x")
MODES = (world_mode("on", "code", "web"), world_mode("web", "web"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[WEB, CODE, EXTRA, *MODES])


def ask(box: Any, operation: str, params: Any) -> Any:
    tools = bare_tools(presets=preset_tools, check_setting=check_setting)
    return box.world.clock.run(getattr(Gpumod(box.machine(), tools), operation)(params))


def export(box: Any) -> str:
    return str(ask(box, "export", NoParams()).yaml)


def diff(box: Any, text: str, **more: Any) -> DiffResult:
    result: DiffResult = ask(box, "diff", DiffParams(text=text, source="box.yaml", **more))
    return result


def apply(box: Any, text: str, **more: Any) -> ApplyResult:
    result: ApplyResult = ask(box, "apply", ApplyParams(text=text, source="box.yaml", **more))
    return result


def edited(text: str, service: str, **fields: Any) -> str:
    """The document with fields of one service changed (None: taken away)."""
    data = yaml.safe_load(text)
    entry = next(e for e in data["services"] if e["id"] == service)
    entry |= fields
    for key in [key for key, value in fields.items() if value is None]:
        del entry[key]
    return yaml.safe_dump(data, sort_keys=False)


def without(text: str, section: str, name: str) -> str:
    data = yaml.safe_load(text)
    data[section] = [entry for entry in data[section] if entry["id"] != name]
    return yaml.safe_dump(data, sort_keys=False)


def fields_of(result: DiffResult) -> dict[tuple[str, str], dict[str, Any]]:
    return {(c.kind, c.id): {f.field: (f.old, f.new) for f in c.fields} for c in result.changes}


def events(box: Any) -> list[tuple[str, str]]:
    return [(event.kind, event.subject) for event in box.store.events(50) if "source" in event.data]


# --- the same document ------------------------------------------------------------------------------------------------


def test_what_was_exported_changes_nothing_and_makes_an_empty_home_the_same(box: Any, make_box: Any) -> None:
    box.store.put_setting("reserve_mb", "700", event=EVENT)
    text = export(box)
    assert apply(box, text, prune=True).changes == ()
    assert events(box) == []
    other = make_box(8000)
    assert apply(other, text).applied
    assert export(other) == text
    assert other.store.services() == box.store.services()
    assert other.store.modes() == box.store.modes()
    assert other.store.settings() == {"reserve_mb": "700"}
    assert apply(other, text).changes == ()


edits = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text("ab ", max_size=4),
        "port": st.integers(20_000, 20_100),
        "vram_mb": st.integers(0, 5000),
        "pinned": st.booleans(),
        "role": st.sampled_from(["a", "b"]),
    },
)
options = st.dictionaries(st.sampled_from(["load_s", "stop_s", "residue_mb"]), st.integers(1, 9), max_size=3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=edits, unit_vars=options, reserve_mb=st.none() | st.integers(0, 900))
def test_a_diff_after_an_edit_shows_exactly_that_edit(
    make_box: Any, fields: dict[str, Any], unit_vars: dict[str, int], reserve_mb: int | None
) -> None:
    box = make_box(8000, define=[WEB, CODE, EXTRA, *MODES])
    text, old = export(box), WEB.model_dump(mode="json")
    ask(box, "service_edit", ServiceWrite(id="web", fields=fields, unit_vars=unit_vars))
    if reserve_mb is not None:
        ask(box, "settings_set", SettingWrite(key="reserve_mb", value=str(reserve_mb)))
    shown = fields_of(diff(box, text, prune=True))
    web = {key: (value, old[key]) for key, value in fields.items() if value != old[key]}
    web |= {f"unit_vars.{key}": (value, None) for key, value in unit_vars.items()}
    told = {("service", "web"): web} if web else {}
    if reserve_mb not in (None, 512):
        told["setting", "reserve_mb"] = {"reserve_mb": (reserve_mb, 512)}
    assert shown == told
    after = export(box)
    assert apply(box, text, prune=True).applied
    assert export(box) == text
    apply(box, after, prune=True)
    assert export(box) == after
    box.close()


def test_secrets_stay_at_home(box: Any) -> None:
    box.define(WEB.model_copy(update={"driver": "odd", "unit_vars": {"env": {"HF_TOKEN": "hunter2", "A": "1"}}}))
    result = ask(box, "export", NoParams())
    assert "hunter2" not in result.yaml
    assert result.left_out == ("service web: env.HF_TOKEN (a secret)",)
    assert diff(box, result.yaml, prune=True).changes == ()


def test_a_secret_is_never_shown() -> None:
    def with_vars(**unit_vars: Any) -> Box:
        return Box({"web": WEB.model_copy(update={"unit_vars": unit_vars})})

    old = with_vars(env={"HF_TOKEN": "hunter2"}, args=["--api-key", "hunter2", "-x"], cmd="run --token hunter2", a=1)
    new = with_vars(env={"HF_TOKEN": "hunter3"}, args=["--api-key", "hunter3", "-x"], cmd="run --token hunter3", a=2)
    told = differences(old, new)
    assert "hunter" not in str(told)
    assert [f.field for f in told[0].fields] == [f"unit_vars.{n}" for n in ("env.HF_TOKEN", "args", "cmd", "a")]


def test_a_simulated_machine_is_left_alone(box: Any, make_box: Any) -> None:
    for key in ("sim_machine", "bin_path", "models_dir"):
        box.store.put_setting(key, f"/{key}", event=EVENT)
    result = ask(box, "export", NoParams())
    assert yaml.safe_load(result.yaml)["settings"] == {"models_dir": "/models_dir"}
    assert result.left_out == (
        "setting bin_path (of a simulated machine)",
        "setting sim_machine (of a simulated machine)",
    )
    apply(box, result.yaml, prune=True)
    assert set(box.store.settings()) == {"sim_machine", "bin_path", "models_dir"}
    told = apply(box, "version: 1\nsettings: {bin_path: /x, sim_machine: /y, reserve_mb: 1}")
    assert len(told.notes) == 2
    assert box.store.settings()["bin_path"] == "/bin_path"
    other = make_box(8000)
    apply(other, "version: 1\nsettings: {bin_path: /x, sim_machine: /y}")
    assert other.store.settings() == {"bin_path": "/x"}


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("services", "modes", "named"),
    [
        ("{id: a, driver: nope, port: 1}", "", "there is no driver 'nope'"),
        ("{id: a, driver: world, port: 9001}", "", "port 9001 of 'a' is that of web"),
        ("{id: a, driver: world, port: 1}, {id: b, driver: world, port: 1}", "", "port 1 of 'b' is that of a"),
        ("{id: a, driver: world}", "", "service 'a' has no port"),
        ("{id: a, driver: world, port: 1, depends_on: [zz]}", "", "service 'a': there is no service 'zz'"),
        (
            "{id: a, driver: world, port: 1, depends_on: [b]}, {id: b, driver: world, port: 2, depends_on: [a]}",
            "",
            "a -> b -> a",
        ),
        ("{id: a, driver: world, port: 1, unit_vars: {nope: 1}}", "", "driver world refuses service 'a'"),
        ("{id: a, driver: world, port: 1, run_with: nope}", "", "'nope'"),
        ("{id: a, driver: world, port: 1, host: web}", "", "'web' hosts no members"),
        ("", "{id: m, services: [zz]}", "mode 'm': there is no service 'zz'"),
    ],
)
def test_what_is_wrong_is_refused_whole(box: Any, services: str, modes: str, named: str) -> None:
    text = f"version: 1\nsettings: {{reserve_mb: 1}}\nservices: [{services}]\nmodes: [{modes}]\n"
    before = export(box)
    for read in (apply, diff):
        with pytest.raises(UsageError) as caught:
            read(box, text)
        assert caught.value.code == "bad-box"
        assert named in caught.value.info.why
    assert export(box) == before
    assert events(box) == []


BOTH = """\
version: 1
settings: {reserve_mb: x, supervisor: nope}
services:
- {id: a, driver: world, port: 9001}
- {id: b, driver: world, prot: 5}
- {id: c, driver: world, port: 9003, depends_on: [b]}
- {id: extra, driver: world, port: 9100, colour: red}
- {id: d, driver: world, port: 9200, unit_vars: {nope: 1}}
modes: [{id: m, services: [b, a, nowhere]}]
"""


@pytest.mark.parametrize("prune", [False, True])
def test_problems_of_the_text_and_conflicts_are_told_at_once(box: Any, prune: bool) -> None:
    before = export(box)
    with pytest.raises(UsageError) as caught:
        apply(box, BOTH, prune=prune)
    told = caught.value.info.why.splitlines()
    conflicts = [] if prune else ["port 9001 of 'a' is that of web already"]
    conflicts += ["driver world refuses service 'd'", "setting 'supervisor': there is no supervisor 'nope'"]
    assert [line for line in told[:3] if line.startswith("box.yaml:")] == told[:3]
    assert ["reserve_mb" in told[0], "prot" in told[1], "colour" in told[2]] == [True] * 3
    for conflict in conflicts:
        assert [line for line in told[3:] if conflict in line], (conflict, told)
    assert len(told) == 3 + len(conflicts), told  # b may be a service, and 9003 no longer the port of extra
    assert export(box) == before


def test_where_not_even_the_ids_are_known_little_is_said_of_conflicts(box: Any) -> None:
    text = "version: 1\nserivces: [{id: web, port: 1}]\nservices: [{id: a, driver: nope, port: 9001}]\n"
    with pytest.raises(UsageError) as caught:
        apply(box, f"{text}modes: [{{id: m, services: [zz]}}]", prune=True)
    (field, driver) = caught.value.info.why.splitlines()
    assert "serivces is unknown" in field
    assert "there is no driver 'nope'" in driver


def test_settings_that_nobody_offers_are_refused(box: Any) -> None:
    with pytest.raises(UsageError) as caught:
        apply(box, "version: 1\nsettings: {supervisor: nope}\n")
    assert "nope" in caught.value.info.why


def test_a_write_that_fails_leaves_nothing_written(box: Any) -> None:
    text = edited(edited(export(box), "web", vram_mb=1), "extra", vram_mb=2)
    before = export(box)

    def fail() -> None:
        box.when("write put_service before", lambda: (_ for _ in ()).throw(Failed("database", "no")))

    box.when("write put_service before", fail)  # the first is written, the second fails
    with pytest.raises(Failed):
        apply(box, text)
    assert export(box) == before
    assert events(box) == []


def test_every_change_is_an_event(box: Any) -> None:
    text = without(without(edited(export(box), "web", vram_mb=1), "modes", "web"), "services", "extra")
    text = text.replace("services:", "settings: {reserve_mb: 5}\nservices:", 1)
    text = text.replace("modes:", "modes:\n- {id: new, services: [web]}", 1)
    apply(box, text, prune=True)
    assert set(events(box)) == {
        ("setting-changed", "reserve_mb"), ("service-edited", "web"), ("service-removed", "extra"),
        ("mode-created", "new"), ("mode-deleted", "web"),
    }  # fmt: skip
    assert box.store.user_edited("web") == {"vram_mb"}
    assert box.store.mode_user_edited("new")


# --- removing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_removed_unless_it_is_asked_for(box: Any) -> None:
    text = without(export(box), "services", "extra")
    result = apply(box, text)
    assert (result.changes, result.unnamed) == ((), ("service extra",))
    assert "extra" in box.store.services()
    assert [(c.action, c.id) for c in apply(box, text, prune=True).changes] == [("remove", "extra")]
    assert "extra" not in box.store.services()


def test_what_is_named_elsewhere_is_not_removed(box: Any) -> None:
    text = without(export(box), "services", "web")
    with pytest.raises(UsageError) as caught:
        apply(box, text, prune=True)
    assert "mode on, mode web, service code names it" in caught.value.info.why
    box.switch("off")
    with pytest.raises(UsageError, match="is not right") as caught:
        apply(box, without(export(box), "modes", "off"), prune=True)
    assert "mode 'off' would be removed, and is the current one: its services may be running" in caught.value.info.why
    assert caught.value.info.hint == "`gpumod switch on` first, or name it in the document too"


def test_the_mode_after_a_boot_comes_and_goes_with_the_document(box: Any, make_box: Any) -> None:
    ask(box, "settings_set", SettingWrite(key="boot_mode", value="web"))
    apply(fresh := make_box(8000), text := export(box))
    assert fresh.store.settings()["boot_mode"] == "web"
    with pytest.raises(UsageError) as caught:
        apply(box, without(text, "modes", "web"), prune=True)
    assert "mode 'web'" in caught.value.info.why
    apply(box, without(text, "modes", "web").replace("boot_mode: web", ""), prune=True)
    assert ("web" in box.store.modes(), "boot_mode" in box.store.settings()) == (False, False)


def test_what_runs_is_removed_only_after_it_was_stopped(box: Any) -> None:
    box.start("extra")
    text = without(export(box), "services", "extra")
    with pytest.raises(Failed) as caught:
        apply(box, text, prune=True)
    assert caught.value.code == "still-running"
    assert "extra" in box.store.services()
    assert apply(box, text, prune=True, now=True).applied
    assert "extra" not in box.store.services()
    assert box.world.states() == {}
    box.check_sound()


# --- what runs --------------------------------------------------------------------------------------------------------


def test_nothing_restarts_and_the_drift_is_shown(box: Any) -> None:
    box.switch("on")
    acts = len(box.acts)
    result = apply(box, edited(edited(export(box), "web", vram_mb=2000), "code", name="Code", pinned=True))
    assert [(row.service, row.fields, row.command) for row in result.drift] == [
        ("web", ("vram_mb",), "gpumod service restart web")
    ]
    assert not [act for act in box.acts[acts:] if act.startswith(("start", "stop"))]
    assert apply(box, export(box)).changes == ()


def test_now_brings_the_mode_to_the_new_definitions_by_one_plan(box: Any) -> None:
    box.switch("web")
    box.start("extra")
    text = edited(edited(export(box), "web", vram_mb=2000), "code", vram_mb=3500)
    text = text.replace("- id: web\n  services:\n  - web", "- id: web\n  services:\n  - web\n  - code")
    dry = apply(box, text, now=True, dry_run=True)
    assert (dry.applied, dry.change is not None and dry.change.dry_run) == (False, True)
    assert box.store.services()["web"] == WEB
    result = apply(box, text, now=True)
    assert result.change is not None
    assert (result.applied, result.change.exit_code, result.drift) == (True, 0, ())
    assert box.world.managed_mb() == {"web": 2000, "code": 3500}
    assert len(box.store.runs(9)) == 3
    again = apply(box, text, now=True)
    assert (again.changes, again.drift) == ((), ())
    assert again.change is not None
    assert again.change.status == "nothing-to-do"
    box.check_sound()


def test_now_restarts_what_drifted_without_a_mode(box: Any) -> None:
    box.start("web")
    box.start("extra")
    result = apply(box, edited(export(box), "web", vram_mb=2000), now=True)
    assert result.applied
    assert box.world.managed_mb() == {"web": 2000, "extra": 500}


def test_a_plan_that_does_not_fit_leaves_the_definitions(box: Any) -> None:
    box.switch("on")
    result = apply(box, edited(export(box), "web", vram_mb=7000), now=True)
    assert result.change is not None
    assert (result.applied, result.change.exit_code) == (False, 3)
    assert box.store.services()["web"] == WEB
    narrow = apply(box, "version: 1\nsettings: {reserve_mb: 3000}\n", now=True)
    assert narrow.change is not None
    assert narrow.change.status == "nothing-to-do", "what runs is not stopped for a reserve"


def test_a_plan_that_fails_goes_back_with_the_definitions(box: Any) -> None:
    box.switch("on")
    before = export(box)
    text = edited(before, "web", vram_mb=2000)
    box.when("start web before", lambda: box.world.fault("web", "die-after", 0.5))
    result = apply(box, text, now=True)
    assert result.change is not None
    assert (result.applied, result.change.exit_code) == (False, 7), "the way back meets the fault too"
    assert export(box) == before
    box.world.faults.clear()
    box.recover("rollback")
    assert box.world.managed_mb() == {"web": 3000, "code": 4000}
    assert apply(box, text).changes


def test_now_waits_for_nobody_who_changes_the_machine(box: Any) -> None:
    box.world.holder = Holder(pid=1, user="somebody", command="switch", home="/other", since=0)
    text = edited(export(box), "web", vram_mb=2000)
    with pytest.raises(Busy):
        apply(box, text, now=True)
    assert box.store.services()["web"] == WEB
    assert apply(box, text).applied
