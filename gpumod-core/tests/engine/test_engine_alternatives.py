"""Modes that were taken with an alternative: `switch -` brings back what was there."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import Stale, UnknownName, UsageError
from gpumod.domain.plan import AlternativeKind
from gpumod.domain.run import RunStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import (
    ApplyParams,
    DiffParams,
    FreeParams,
    ModeDelete,
    ModeRef,
    NoParams,
    ServiceRef,
    ServiceWrite,
    SimulateParams,
    SwitchParams,
)
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

pytestmark = pytest.mark.slow

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 5000, 9002, context_size=32768, kv_cache_per_1k=60)
MODES = (world_mode("web", "web"), world_mode("both", "web", "code"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[WEB, CODE, *MODES])


def ask(box: Any, operation: str, params: Any) -> Any:
    """One operation of one gpumod."""
    return box.world.clock.run(getattr(Gpumod(box.machine(), bare_tools(presets=preset_tools)), operation)(params))


def switch(box: Any, mode: str, **more: Any) -> Any:
    return ask(box, "switch", SwitchParams(mode=mode, **more))


def smaller_context(box: Any) -> Any:
    """The alternative of mode both that gives code less context."""
    refused = ask(box, "simulate", SimulateParams(mode="both"))
    return next(a for a in refused.alternatives if a.kind is AlternativeKind.CONTEXT)


def launched(box: Any) -> Any:
    """The definition with which code was started."""
    return box.store.handles()["code"].launched


def test_the_previous_mode_comes_back_with_its_alternative_and_says_so(box: Any) -> None:
    small = smaller_context(box)
    assert switch(box, "both", alternative=small.id).status is RunStatus.DONE
    first = launched(box)
    assert first.context_size < 32768
    assert ask(box, "status", NoParams()).alternative == small.id
    switch(box, "web")
    assert ask(box, "status", NoParams()).alternative is None
    shown = switch(box, "-", dry_run=True)
    back = switch(box, "-")
    assert (back.mode, back.mode_now, back.status) == ("both", "both", RunStatus.DONE)
    for result in (shown, back):
        assert any(small.id in note and small.title in note for note in result.notes), result.notes
    assert launched(box) == first
    assert box.store.runs(1)[0].command == f"switch both --with {small.id}"
    assert switch(box, "-").mode == "web"
    assert switch(box, "-").mode == "both"
    assert launched(box) == first
    assert switch(box, "both", alternative=small.id).status is RunStatus.NOTHING_TO_DO
    box.check_sound()


def test_a_mode_that_was_taken_plainly_comes_back_plainly(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    switch(box, "off")
    switch(box, "web")
    back = switch(box, "-")
    assert (back.mode_now, back.notes) == ("off", ())
    box.define(CODE.model_copy(update={"vram_mb": 4000}))
    switch(box, "both")
    switch(box, "off")
    assert switch(box, "-").notes == ()
    assert launched(box).context_size == 32768


def test_an_unknown_alternative_is_told_with_those_of_its_mode_alone(box: Any) -> None:
    small = smaller_context(box)
    box.define(world_mode("too", "web", "code"))
    with pytest.raises(UnknownName) as nothing:
        switch(box, "too", alternative="nope")
    assert small.id not in nothing.value.info.why
    others = {a.id for a in ask(box, "simulate", SimulateParams(mode="too")).alternatives}
    with pytest.raises(UnknownName) as caught:
        switch(box, "too", alternative="nope")
    assert all(other in caught.value.info.why for other in others)
    assert small.id not in caught.value.info.why


def test_an_alternative_can_be_named_for_the_previous_mode_too(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    switch(box, "off")
    others = ask(box, "simulate", SimulateParams(mode="both")).alternatives
    other = next(a for a in others if a.kind is AlternativeKind.LEAVE_OUT and "code" in a.title)
    back = switch(box, "-", alternative=other.id)
    assert (back.mode_now, back.notes) == ("both", ())
    assert box.store.current_alternative() == other.id
    assert "code" not in box.store.handles()


def test_a_run_that_was_cut_off_is_resumed_with_its_alternative(box: Any) -> None:
    small = smaller_context(box)
    box.world.fault("code", "oom-at-start")
    switch(box, "both", alternative=small.id, no_rollback=True)
    box.world.faults.clear()
    box.recover("resume")
    assert (box.store.current_mode(), box.store.current_alternative()) == ("both", small.id)


@pytest.mark.parametrize("change", ["context", "size", "mode"])
def test_an_alternative_that_is_lost_is_said_with_how_to_go_on(box: Any, change: str) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    switch(box, "off")
    if change == "context":
        ask(box, "service_edit", ServiceWrite(id="code", unset=("context_size", "kv_cache_per_1k")))
    elif change == "size":
        ask(box, "service_edit", ServiceWrite(id="code", fields={"vram_mb": 7900}))
    else:
        box.define(world_mode("both", "web"))
    with pytest.raises(Stale) as caught:
        switch(box, "-")
    info = caught.value.info
    assert small.id in info.message
    assert "gpumod switch both" in info.hint
    assert info.why
    assert box.store.current_mode() == "off"


def test_a_mode_that_is_deleted_leaves_no_alternative_behind(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    switch(box, "off")
    ask(box, "mode_delete", ModeDelete(mode="both"))
    assert box.store.previous_alternative() is None
    with pytest.raises(UsageError) as caught:
        switch(box, "-")
    assert caught.value.code == "no-previous-mode"


# --- is it whole? -----------------------------------------------------------------------------------------------------


def verified(box: Any, mode: str = "both") -> Any:
    return ask(box, "mode_verify", ModeRef(mode=mode))


@pytest.mark.parametrize("kind", [AlternativeKind.CONTEXT, AlternativeKind.LEAVE_OUT])
def test_a_mode_with_its_alternative_is_whole_and_says_so(box: Any, kind: AlternativeKind) -> None:
    offered = ask(box, "simulate", SimulateParams(mode="both")).alternatives
    taken = next(a for a in offered if a.kind is kind)
    assert switch(box, "both", alternative=taken.id).status is RunStatus.DONE
    told = verified(box)
    assert (told.whole, told.alternative, told.extra) == (True, taken.id, ()), told
    assert told.notes == (f"it runs with alternative {taken.id} ({taken.title})",)
    assert {m.service for m in told.members} == set(box.world.states())
    assert all(m.ok for m in told.members)
    box.world.crash(told.members[0].service)
    assert not verified(box).whole


def test_a_mode_that_is_not_the_current_one_is_compared_as_it_is_defined(box: Any) -> None:
    switch(box, "both", alternative=smaller_context(box).id)
    switch(box, "web")
    told = verified(box)
    assert (told.whole, told.alternative, told.notes) == (False, None, ())


def test_what_does_not_run_as_the_alternative_has_it_is_told(box: Any) -> None:
    switch(box, "both", alternative=smaller_context(box).id)
    box.stop("web")
    box.start("code", restart=True)
    told = verified(box)
    assert not told.whole
    assert {m.service: m.ok for m in told.members} == {"web": False, "code": False}


def test_an_alternative_that_can_no_longer_be_applied_is_told(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    ask(box, "service_edit", ServiceWrite(id="code", unset=("context_size", "kv_cache_per_1k")))
    told = verified(box)
    assert {m.service for m in told.members} == {"web", "code"}
    assert told.alternative == small.id
    assert small.id in told.notes[0]
    assert "can no longer be applied" in told.notes[0]
    assert "gpumod switch both" in told.notes[1]


# --- what an alternative changed is not kept for another mode ---------------------------------------------------------


@pytest.fixture
def roomy(box: Any) -> Any:
    """A machine that went to mode both with less context for code, and has a mode with code alone."""
    box.define(world_mode("big", "code"))
    box.small = smaller_context(box)
    assert switch(box, "both", alternative=box.small.id).status is RunStatus.DONE
    return box


def stop_of(plan: Any, service: str) -> Any:
    return next(step.why for step in plan.steps if (step.action, step.service) == ("stop", service))


def test_the_next_mode_has_the_stored_definition_and_says_why_it_restarts(roomy: Any) -> None:
    weak = launched(roomy)
    why = f"runs with alternative {roomy.small.id} ({roomy.small.title}) of mode both"
    assert (
        why.removeprefix("runs with ") in next(s for s in ask(roomy, "status", NoParams()).services if s.drift).altered
    )
    same = DiffParams(text=ask(roomy, "export", NoParams()).yaml, source="box.yaml")
    drifted = ask(roomy, "diff", same).drift
    assert [row.service for row in drifted] == ["code"]
    for shown in (ask(roomy, "service_show", ServiceRef(service="code")), *drifted):
        assert shown.altered == why.removeprefix("runs with ")
    assert verified(roomy).notes == (f"it {why.removesuffix(' of mode both')}",)
    shown = ask(roomy, "simulate", SimulateParams(mode="big"))
    assert stop_of(shown, "code") == why
    done = switch(roomy, "big")
    assert done.status is RunStatus.DONE
    assert stop_of(done.plan, "code") == why
    assert launched(roomy) == CODE != weak
    assert verified(roomy, "big").whole
    assert roomy.store.handles()["code"].altered == ""
    assert switch(roomy, "big").status is RunStatus.NOTHING_TO_DO
    roomy.check_sound()


def test_what_would_run_decides_whether_it_fits(roomy: Any) -> None:
    """Both with all of the context never fitted, also while it runs with less."""
    assert switch(roomy, "both").status is RunStatus.REFUSED
    assert ask(roomy, "simulate", SimulateParams(mode="both")).alternatives
    assert launched(roomy).context_size < 32768
    assert (roomy.store.current_mode(), roomy.store.current_alternative()) == ("both", roomy.small.id)


def test_an_alternative_has_one_id_whatever_runs(roomy: Any) -> None:
    assert smaller_context(roomy).id == roomy.small.id


def test_a_mode_that_is_not_taken_plainly_is_told_what_restarts(roomy: Any) -> None:
    told = verified(roomy, "big")
    assert not told.whole
    assert told.members[0].detail.startswith(f"is running; it should restart: runs with alternative {roomy.small.id}")


def test_an_edit_of_the_user_is_shown_and_restarts_nothing(roomy: Any) -> None:
    switch(roomy, "big")
    pid = roomy.world.alive()["code"].pid
    ask(roomy, "service_edit", ServiceWrite(id="code", fields={"context_size": 8192}))
    done = switch(roomy, "big")
    assert done.status is RunStatus.NOTHING_TO_DO
    assert roomy.world.alive()["code"].pid == pid
    told = verified(roomy, "big")
    assert told.whole
    assert done.notes == told.notes == switch(roomy, "big", dry_run=True).notes
    assert done.notes[0].startswith("code was edited since its start and runs with another context_size")
    assert "`gpumod service restart code` applies it" in done.notes[0]
    assert ask(roomy, "service_show", ServiceRef(service="code")).altered == ""
    switch(roomy, "web")
    assert switch(roomy, "big").notes == (), "what is started is started as it is defined"
    ask(roomy, "service_edit", ServiceWrite(id="code", fields={"context_size": 4096}))
    row = next(s for s in ask(roomy, "status", NoParams()).services if s.id == "code")
    assert ("context_size" in row.drift, row.altered) == (True, "")


def test_it_comes_back_with_its_word_when_a_switch_fails(roomy: Any) -> None:
    mark, weak = roomy.store.handles()["code"].altered, launched(roomy)
    roomy.when("start code before", lambda: roomy.world.fault("code", "oom-at-start"))
    roomy.when("write add_steps before", roomy.world.faults.clear)
    assert switch(roomy, "big").status is RunStatus.ROLLED_BACK
    assert launched(roomy) == weak
    assert roomy.store.handles()["code"].altered == mark
    assert verified(roomy).whole
    assert switch(roomy, "big").status is RunStatus.DONE
    assert launched(roomy) == CODE


def test_it_is_put_back_with_its_word_after_a_lease(roomy: Any) -> None:
    mark = roomy.store.handles()["code"].altered
    lease = ask(roomy, "free", FreeParams(mb=7000)).lease
    assert "code" not in roomy.store.handles()
    ask(roomy, "free", FreeParams(back=True, lease=lease.id))
    assert roomy.store.handles()["code"].altered == mark
    assert switch(roomy, "big").status is RunStatus.DONE
    assert launched(roomy) == CODE


def test_a_restart_by_hand_takes_the_word_away(roomy: Any) -> None:
    roomy.stop("web")
    roomy.start("code", restart=True)
    assert (launched(roomy), roomy.store.handles()["code"].altered) == (CODE, "")


def test_what_is_added_to_a_mode_says_so(box: Any) -> None:
    shown = ask(box, "simulate", SimulateParams(mode="web", add=("code",)))
    assert {row.id: row.why for row in shown.services} == {"web": "wanted by mode web", "code": "added to mode web"}
    box.switch("web")
    shown = ask(box, "simulate", SimulateParams(add=("code",)))
    assert {row.id: row.why for row in shown.services} == {"web": "wanted", "code": "added"}


def test_what_failed_has_no_drift(box: Any) -> None:
    box.switch("web")
    ask(box, "service_edit", ServiceWrite(id="web", fields={"port": 9050}))
    assert ask(box, "status", NoParams()).services[1].drift == ("port",)
    box.world.crash("web")
    row = next(s for s in ask(box, "status", NoParams()).services if s.id == "web")
    assert (row.state, row.drift) == ("failed", ())


# --- apply --now goes to the mode as it was taken ---------------------------------------------------------------------


def applied(box: Any, **edits: Any) -> Any:
    """What `apply --now` does with what is defined, each service in `edits` with other fields."""
    data = yaml.safe_load(ask(box, "export", NoParams()).yaml)
    for entry in data["services"]:
        entry.update(edits.get(entry["id"], {}))
    return ask(box, "apply", ApplyParams(text=yaml.safe_dump(data), source="box.yaml", now=True))


def there(box: Any) -> Any:
    return box.store.current_alternative(), {s: proc.pid for s, proc in box.world.alive().items()}


@pytest.mark.parametrize("kind", [AlternativeKind.CONTEXT, AlternativeKind.LEAVE_OUT])
def test_what_is_defined_already_changes_nothing(box: Any, kind: AlternativeKind) -> None:
    offered = ask(box, "simulate", SimulateParams(mode="both")).alternatives
    switch(box, "both", alternative=next(a for a in offered if a.kind is kind).id)
    before = there(box)
    done = applied(box)
    assert (done.changes, done.change.status, done.change.notes) == ((), RunStatus.NOTHING_TO_DO, ())
    assert there(box) == before


def test_what_was_left_out_stays_out_when_it_is_edited(box: Any) -> None:
    offered = ask(box, "simulate", SimulateParams(mode="both")).alternatives
    taken = next(a for a in offered if a.kind is AlternativeKind.LEAVE_OUT and "code" in a.title)
    switch(box, "both", alternative=taken.id)
    before = there(box)
    assert applied(box, code={"vram_mb": 1000}).applied, "it would fit now, and yet it was left out"
    assert (there(box), box.store.services()["code"].vram_mb) == (before, 1000)


def test_an_edit_restarts_with_what_the_alternative_changed(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    mark, weak = box.store.handles()["code"].altered, launched(box)
    assert applied(box, code={"port": 9050}, web={"vram_mb": 2900}).applied
    assert launched(box) == weak.model_copy(update={"port": 9050})
    assert (box.store.handles()["code"].altered, box.store.current_alternative()) == (mark, small.id)
    assert box.world.managed_mb()["web"] == 2900
    assert verified(box).whole
    assert applied(box).change.status is RunStatus.NOTHING_TO_DO


def test_a_document_that_leaves_no_room_for_the_alternative_says_so(box: Any) -> None:
    small = smaller_context(box)
    switch(box, "both", alternative=small.id)
    done = applied(box, code={"context_size": None, "kv_cache_per_1k": None, "vram_mb": 4000})
    (told,) = done.change.notes
    assert told.startswith(f"mode both was taken with alternative {small.id}, and goes to what is defined now: ")
    assert (box.store.current_alternative(), box.world.managed_mb()) == (None, {"web": 3000, "code": 4000})
