"""Any services, any modes, any fault at any moment: whatever happens, the outcome is true and nothing is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.domain.mode import Mode
from gpumod.domain.run import RunStatus
from gpumod.testing.signals import interrupt
from gpumod.testing.world import World
from gpumod.testing.world_drivers import world_mode, world_service

pytestmark = pytest.mark.slow

TOTAL_MB = 12_000
QUICK = {"load_s": 0.2, "stop_s": 0.05, "sleep_s": 0.05, "wake_s": 0.05}
SERVICES = (
    world_service("base", 1000, 9000, **QUICK),
    world_service("top", 2000, 9001, depends_on=("base",), **QUICK),
    world_service("nap", 4000, 9002, naps=True, **QUICK),
    world_service("doze", 5000, 9003, naps=True, exclusive=True, **QUICK),
    world_service("rise", 3000, 9004, peak_mb=5000, start_peak_mb=5000, **QUICK),
    world_service("router", 0, 9005, driver="world-host", **QUICK),
    world_service("one", 3000, host="router", sleep_mode="unload", **QUICK),
    world_service("two", 2000, host="router", sleep_mode="unload", depends_on=("base",), **QUICK),
)
NAMES = [service.id for service in SERVICES if service.id != "router"]
KINDS = {
    "never-ready": 0, "die-after": 0.15, "oom-at-start": 0, "cpu-fallback": 0, "hang": 0, "ignore-sigterm": 0,
    "unkillable": 0, "leak": 700, "sleep-500": 0, "sleep-hangs": 0, "sleep-frees-nothing": 0, "wake-oom": 0,
}  # fmt: skip


Accident = tuple[int, Callable[[World], Any], str]


@st.composite
def modes(draw: st.DrawFn, name: str) -> Mode:
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=4))
    wants = st.sampled_from(["", "", ":asleep", ":time-shared"])
    return world_mode(name, *(f"{service}{draw(wants)}@{draw(st.sampled_from([0, 0, 1]))}" for service in chosen))


@st.composite
def accidents(draw: st.DrawFn, names: list[str]) -> Accident:
    """At the n-th act: a fault from now on, a game, a crash, or Ctrl-C."""
    n = draw(st.integers(0, 20))
    what = draw(st.sampled_from(["fault", "fault", "fault", "game", "crash", "interrupt"]))
    service = draw(st.sampled_from(names))
    if what == "fault":
        kind = draw(st.sampled_from(sorted(KINDS)))
        return n, lambda world: world.fault(service, kind, KINDS[kind]), f"{kind} {service}"
    if what == "game":
        mb = draw(st.sampled_from([500, 3000, 8000]))
        return n, lambda world: world.foreign(mb), f"game {mb}"
    if what == "crash":
        return n, lambda world: world.crash(service, 9) if service in world.alive() else None, f"crash {service}"
    return n, lambda _: interrupt(), "interrupt"


@st.composite
def stories(draw: st.DrawFn) -> tuple[Mode, Mode, list[Accident]]:
    first, second = draw(modes("first")), draw(modes("second"))
    names = sorted({*first.services, *second.services})
    return first, second, draw(st.lists(accidents(names), min_size=1, max_size=3))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(story=stories())
def test_whatever_happens(box_in, story):
    first, second, accidents = story
    folder = Path(tempfile.mkdtemp())
    box = box_in(folder, TOTAL_MB)
    try:
        box.define(*SERVICES, first, second)
        if box.switch("first").exit_code != 0:
            return
        box.settled()
        before = box.world.states()
        box.acts.clear()
        due = [(n, do) for n, do, _ in accidents]

        def strike(_: str) -> None:
            for n, do in [one for one in due if one[0] < len(box.acts)]:
                due.remove((n, do))
                do(box.world)

        box.every = strike
        outcome = box.switch("second")
        box.every = lambda _: None
        check(box, outcome, before, [text for _, _, text in accidents])
    finally:
        box.close()
        shutil.rmtree(folder)


def check(box, outcome, before, accidents):
    box.settled()
    crashed = {text.split()[1] for text in accidents if text.startswith("crash")}
    codes = {
        RunStatus.DONE: 0, RunStatus.NOTHING_TO_DO: 0, RunStatus.REFUSED: 3,
        RunStatus.ROLLED_BACK: 6, RunStatus.HALF_WAY: 7,
    }  # fmt: skip
    assert outcome.exit_code == codes[outcome.status]
    assert (outcome.error is None) == (outcome.exit_code == 0)
    unforeseen = (
        ("internal",) if crashed or any("hang" in text for text in accidents) else ("internal", "verify-failed")
    )
    assert outcome.error is None or outcome.error.code not in unforeseen, outcome.error
    assert box.world.holder is None
    assert (box.store.open_run() is None) == (outcome.status is not RunStatus.HALF_WAY)
    if outcome.status in (RunStatus.ROLLED_BACK, RunStatus.REFUSED) and not crashed:
        states = box.world.states()
        unslept = {text.split()[1] for text in accidents if text.startswith("sleep-frees-nothing")}
        assert {s: v for s, v in states.items() if s not in unslept} == {
            s: v for s, v in before.items() if s not in unslept
        }
    if outcome.status is RunStatus.HALF_WAY:
        box.world.faults.clear()
        box.world.strangers.clear()
        mended = box.recover("rollback")
        assert mended.exit_code == 0, mended.error
        box.settled()
        assert box.world.states() == before
    members = {name for proc in box.world.alive().values() for name in proc.members}
    assert set(box.store.handles()) >= set(box.world.alive())
    assert not (set(box.world.alive()) - set(box.store.handles()) - members)
