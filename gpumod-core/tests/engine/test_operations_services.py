"""Operations on definitions over a world: removing, editing, alternatives, sleep levels."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.bootstrap import preset_tools
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import Busy, Failed, GpumodError, HalfWay, Stale, UsageError
from gpumod.domain.plan import AlternativeKind
from gpumod.domain.run import Event, RunStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef, ServiceChange, ServiceRemove, ServiceWrite, SimulateParams, SwitchParams
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 5000, 9002, context_size=32768, kv_cache_per_1k=60, uses_mb=4800)
MODES = (world_mode("web", "web"), world_mode("code", "code"), world_mode("both", "web", "code"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[WEB, CODE, *MODES])


def ask(box: Any, operation: str, params: Any) -> Any:
    """One operation of one gpumod."""
    return box.world.clock.run(getattr(Gpumod(box.machine(), bare_tools(presets=preset_tools)), operation)(params))


def remove(box: Any, **more: Any) -> Any:
    return ask(box, "service_remove", ServiceRemove(service="web", cascade=True, **more))


def edit(box: Any, service: str, **fields: Any) -> Any:
    return ask(box, "service_edit", ServiceWrite(id=service, fields=fields)).service


# --- removing ---------------------------------------------------------------------------------------------------------


def test_removing_what_failed_clears_it_by_a_run(box: Any) -> None:
    box.switch("web")
    box.world.crash("web")
    remove(box)
    assert "web" not in box.store.services()
    assert box.store.runs(1)[0].command == "service remove web"
    box.check_sound()


def test_removing_waits_for_nobody_who_changes_the_machine(box: Any) -> None:
    box.switch("web")
    box.world.crash("web")
    box.world.holder = Holder(pid=1, user="somebody", command="switch", home="/other", since=0)
    with pytest.raises(Busy):
        remove(box)
    assert "web" in box.store.services()
    assert "web" in box.store.handles()


def test_removing_is_refused_while_a_run_is_open(box: Any) -> None:
    box.switch("web")
    box.define(world_service("small", 100, 9003))
    box.world.fault("small", "die-after", 0.5)
    assert box.start("small", rollback=False).exit_code == 7
    box.world.crash("web")
    with pytest.raises(HalfWay):
        remove(box)
    assert "web" in box.store.handles()


def test_removing_what_runs_is_refused_or_stops_it(box: Any) -> None:
    box.switch("web")
    with pytest.raises(Failed) as caught:
        remove(box)
    assert caught.value.code == "still-running"
    remove(box, stop=True)
    assert box.world.states() == {}
    assert "web" not in box.store.services()


def break_row(box: Any) -> None:
    with box.store._db.write() as session:  # as somebody would do by hand
        session.connection().exec_driver_sql("UPDATE services SET definition = '{bad' WHERE id = 'web'")


def test_one_whose_definition_is_broken_is_removed_like_any_other(make_box: Any) -> None:
    box = make_box(10_000, define=[WEB, CODE, *MODES])
    assert box.switch("both").error is None
    break_row(box)
    hint = box.store.problems()[0].hint
    assert "`gpumod service remove web --cascade --stop`" in hint
    for options, code in (({}, "in-modes"), ({"cascade": True}, "still-running")):
        with pytest.raises(Failed) as caught:
            ask(box, "service_remove", ServiceRemove(service="web", **options))
        assert caught.value.code == code
        assert box.store.problems()
    remove(box, stop=True)
    assert set(box.world.states()) == {"code"}
    assert box.store.problems() == ()
    assert {mode.id: mode.services for mode in box.store.modes().values()} == {
        "both": ("code",),
        "code": ("code",),
        "off": (),
        "web": (),
    }
    box.check_sound()


def test_one_that_runs_and_whose_definition_is_broken_can_be_stopped(make_box: Any) -> None:
    box = make_box(10_000, define=[WEB, CODE, *MODES])
    assert box.switch("both").error is None
    break_row(box)
    assert ask(box, "service_stop", ServiceChange(service="web")).exit_code == 0
    assert set(box.world.states()) == {"code"}
    remove(box)
    assert box.store.problems() == ()


def test_what_somebody_else_set_up_goes_on_when_its_broken_definition_is_removed(box: Any) -> None:
    box.switch("web")
    theirs = WEB.model_copy(update={"adopted": Adopted(unit="web.service", manager="user")})
    handle = box.store.handles()["web"].model_copy(update={"launched": theirs})
    box.store.put_handle(handle, event=Event(at=0.0, kind="test", subject="web"))
    break_row(box)
    remove(box)
    assert set(box.world.states()) == {"web"}
    assert "web" not in box.store.handles()
    assert box.store.problems() == ()


# --- editing ----------------------------------------------------------------------------------------------------------


def test_a_context_changes_the_memory_that_the_edit_does_not_name(box: Any) -> None:
    box.define(CODE.model_copy(update={"start_peak_mb": 6000}))
    edited = edit(box, "code", context_size=12768)
    assert (edited.vram_mb, edited.start_peak_mb) == (3800, 4800)


def test_what_it_keeps_asleep_is_never_more_than_what_it_takes(box: Any) -> None:
    edit(box, "code", asleep_mb=4000)
    edited = edit(box, "code", context_size=1)
    assert edited.asleep_mb == edited.vram_mb < 4000


def test_a_peak_that_is_named_is_kept(box: Any) -> None:
    box.define(CODE.model_copy(update={"start_peak_mb": 6000}))
    edited = edit(box, "code", context_size=12768, start_peak_mb=4000)
    assert (edited.vram_mb, edited.start_peak_mb) == (3800, 4000)


def test_the_cost_that_is_named_is_used(box: Any) -> None:
    assert edit(box, "code", context_size=12768, kv_cache_per_1k=100).vram_mb == 3000


def test_memory_that_is_named_is_kept(box: Any) -> None:
    assert edit(box, "code", context_size=12768, vram_mb=1234).vram_mb == 1234


def test_a_peak_below_what_the_context_takes_is_refused(box: Any) -> None:
    with pytest.raises(UsageError) as caught:
        edit(box, "code", context_size=52768, start_peak_mb=6000)
    assert caught.value.code == "bad-input"


# --- sleep levels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["l1", "nap"])
def test_a_level_that_the_driver_does_not_have_is_refused(box: Any, level: str) -> None:
    driver = "world" if level == "l1" else "world-host"
    with pytest.raises(GpumodError) as caught:
        ask(
            box,
            "service_add",
            ServiceWrite(id="new", fields={"driver": driver, "port": 9009, "sleep_mode": level}),
        )
    assert "sleep" in caught.value.info.message
    assert "none" in caught.value.info.hint


def test_a_level_that_the_options_rule_out_is_refused(box: Any) -> None:
    fields = {"driver": "world", "port": 9009, "sleep_mode": "unload"}
    with pytest.raises(UsageError) as caught:
        ask(box, "service_add", ServiceWrite(id="new", fields=fields))
    assert caught.value.code == "bad-sleep-mode"
    assert caught.value.info.hint == "set sleep_mode to nap or none"


# --- alternatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uses_mb", [4800, 5000, 5400])
def test_an_alternative_that_was_offered_can_be_taken_with_what_was_measured(box: Any, uses_mb: int) -> None:
    told = {**CODE.unit_vars, "uses_mb": uses_mb}
    box.define(CODE.model_copy(update={"unit_vars": told}))
    box.switch("code")
    box.switch("off")
    refused = ask(box, "simulate", SimulateParams(mode="both"))
    context = [a for a in refused.alternatives if a.kind is AlternativeKind.CONTEXT]
    assert len(context) == 1
    taken = ask(box, "switch", SwitchParams(mode="both", alternative=context[0].id, dry_run=True))
    assert taken.plan.verdict == context[0].verdict
    assert max(gpu.peak_mb for gpu in taken.plan.gpus) == context[0].peak_mb


def test_a_refused_alternative_is_stale_and_stores_nothing_under_its_mode(box: Any) -> None:
    refused = ask(box, "switch", SwitchParams(mode="both"))
    assert refused.status is RunStatus.REFUSED
    assert len(box.store.simulations(10)) == 1
    first = refused.plan.alternatives[0]
    box.world.foreign(6000)
    with pytest.raises(Stale):
        ask(box, "switch", SwitchParams(mode="both", alternative=first.id))
    assert len(box.store.simulations(10)) == 1


def test_a_service_must_say_what_vram_it_takes(box: Any) -> None:
    silent = {"driver": "world", "port": 9100}
    with pytest.raises(UsageError) as caught:
        ask(box, "service_add", ServiceWrite(id="x", fields=silent))
    assert caught.value.code == "no-vram"
    assert ask(box, "service_add", ServiceWrite(id="x", fields={**silent, "vram_mb": 0})).service.vram_mb == 0
    for fields, code in (({}, "no-vram"), ({"vram_mb": 9}, "set-and-unset")):
        with pytest.raises(UsageError) as caught:
            ask(box, "service_edit", ServiceWrite(id="web", fields=fields, unset=("vram_mb",)))
        assert caught.value.code == code
    assert box.store.services()["web"] == WEB


# --- turns ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(make_box: Any) -> Any:
    """A mode in which three take turns, and one is awake beside them."""
    made = make_box(16_000)
    made.define(
        world_service("base", 1000, 9011),
        world_service("one", 6000, 9012, naps=True),
        world_service("two", 7000, 9013, naps=True),
        world_service("three", 8000, 9014),
        world_mode("turns", "base", "one:time-shared", "two:time-shared", "three:time-shared"),
    )
    assert made.switch("turns").exit_code == 0
    return made


def verified(box: Any) -> Any:
    return ask(box, "mode_verify", ModeRef(mode="turns"))


def test_whose_turn_it_is_puts_the_other_one_to_sleep(shared: Any) -> None:
    assert verified(shared).whole
    for service, operation in (("one", "service_wake"), ("two", "service_wake"), ("three", "service_start")):
        done = ask(shared, operation, ServiceChange(service=service))
        assert done.exit_code == 0, done
        awake = [s for s, state in shared.states().items() if state == "running"]
        assert sorted(awake) == sorted(["base", service])
        assert verified(shared).whole
    slept = [(s.action, s.service, s.why) for s in done.steps if s.service == "two"]
    assert slept == [("sleep", "two", "it is the turn of three")]
    assert ask(shared, "service_wake", ServiceChange(service="one")).exit_code == 0  # three sleeps by being stopped
    assert "three" not in shared.states()
    shared.check_sound()


def test_two_that_are_awake_at_once_are_not_the_mode(shared: Any) -> None:
    shared.start("one")
    shared.start("two")
    seen = verified(shared)
    assert not seen.whole
    assert [m.service for m in seen.members if not m.ok] == ["one", "two"]
