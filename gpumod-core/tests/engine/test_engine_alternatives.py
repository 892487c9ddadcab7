"""Modes that were taken with an alternative: `switch -` brings back what was there."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.domain.errors import Stale, UsageError
from gpumod.domain.plan import AlternativeKind
from gpumod.domain.run import RunStatus
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeDelete, ModeRef, NoParams, ServiceWrite, SimulateParams, SwitchParams
from gpumod.operations.ports import Tools
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 5000, 9002, context_size=32768, kv_cache_per_1k=60)
MODES = (world_mode("web", "web"), world_mode("both", "web", "code"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[WEB, CODE, *MODES])


def no_presets() -> Any:
    raise AssertionError("presets are not asked for here")


def ask(box: Any, operation: str, params: Any) -> Any:
    """One operation of one gpumod."""
    tools = Tools(no_presets, lambda _key, value: value, frozenset(), dict, no_presets, no_presets)
    return box.world.clock.run(getattr(Gpumod(box.machine(), tools), operation)(params))


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
