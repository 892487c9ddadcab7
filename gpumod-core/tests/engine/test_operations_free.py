"""Leases over a world: when they end, what they count, and that what was put away comes back as it was."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from gpumod.bootstrap import preset_tools
from gpumod.domain.box import Box
from gpumod.domain.errors import Busy, DoesNotFit, Failed, HalfWay, MachineLacks
from gpumod.domain.run import Event
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.lease_results import FreeResult
from gpumod.operations.params import (
    ApplyParams,
    FreeParams,
    NoParams,
    ServiceChange,
    ServiceRemove,
    SimulateParams,
    SwitchParams,
)
from gpumod.ports import Holder
from gpumod.testing.signals import interrupt
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
NAP = world_service("nap", 4000, 9002, naps=True)
MODES = (world_mode("on", "web", "nap"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[WEB, NAP, *MODES])
    made.switch("on")
    return made


def ask(box: Any, operation: str, params: Any) -> Any:
    return box.world.clock.run(getattr(Gpumod(box.machine(), bare_tools(presets=preset_tools)), operation)(params))


def free(box: Any, mb: int | None = None, **more: Any) -> FreeResult:
    result: FreeResult = ask(box, "free", FreeParams(mb=mb, back=mb is None, **more))
    return result


def status(box: Any) -> Any:
    return ask(box, "status", NoParams())


def pass_time(box: Any, seconds: float) -> None:
    box.world.clock.run(box.world.clock.sleep(seconds))


def test_room_is_made_by_sleep_and_put_back(box: Any) -> None:
    made = free(box, 4000)
    assert made.lease is not None
    assert made.next == "gpumod free --back"
    assert box.world.states() == {"web": "ready", "nap": "asleep"}
    assert [row.vram_mb for row in status(box).leases] == [4000]
    back = free(box).back
    assert back is not None
    assert back.exit_code == 0
    assert box.world.managed_mb() == {"web": 3000, "nap": 4000}
    assert status(box).leases == ()
    box.check_sound()


def test_a_lease_ends_with_its_process(box: Any) -> None:
    made = free(box, 4000, pid=os.getpid(), what="train")
    assert made.lease is not None
    assert made.lease.holder == f"somebody: train (pid {os.getpid()})"
    with pytest.raises(Busy, match="4000 MiB of GPU 0 are leased to somebody: train"):
        free(box)
    assert box.switch("on").exit_code == 3
    box.world.gone.add(os.getpid())
    assert status(box).leases == ()
    assert status(box).put_back == "nap made room for somebody who is gone: gpumod free --back"
    assert box.switch("on").exit_code == 0
    assert status(box).put_back == ""
    assert box.world.states() == {"web": "ready", "nap": "ready"}


def test_a_lease_of_nobody_in_particular_ends_with_the_boot(box: Any) -> None:
    free(box, 4000)
    box.world.gone.add(None)
    assert status(box).leases == ()
    free(box)
    assert box.world.states() == {"web": "ready", "nap": "ready"}


def test_a_lease_ends_when_its_time_is_over(box: Any) -> None:
    made = free(box, 4000, pid=os.getpid(), for_s=60)
    assert made.lease is not None
    assert made.lease.until == made.lease.since + 60
    assert box.switch("on").exit_code == 3
    pass_time(box, 61)
    assert status(box).leases == ()
    assert box.switch("on").exit_code == 0


def test_what_comes_back_is_what_was_there(box: Any) -> None:
    free(box, 7000, pid=os.getpid())
    assert "nap" in box.world.states()
    box.define(WEB.model_copy(update={"vram_mb": 1000}))
    box.world.gone.add(os.getpid())
    free(box)
    assert box.world.managed_mb() == {"web": 3000, "nap": 4000}, "with the definitions that were launched"


def test_what_somebody_started_meanwhile_stays(box: Any) -> None:
    box.define(world_service("small", 100, 9003))
    free(box, 4000)
    assert box.start("small").exit_code == 0
    free(box)
    assert box.world.states() == {"web": "ready", "nap": "ready", "small": "ready"}


def test_a_plan_counts_the_lease_and_names_its_holder(box: Any) -> None:
    free(box, 4000)
    refused = box.start("nap")
    assert refused.exit_code == 3
    assert "somebody holds 4000 MiB" in refused.error.message
    assert box.start("nap", force=True).exit_code == 0


def test_memory_that_is_taken_counts_once(box: Any) -> None:
    free(box, 4000)
    box.world.foreign(2500)
    (lease,) = status(box).leases
    assert lease.used_mb == 2500
    (gpu,) = box.start("web").plan.gpus
    assert gpu.budget_mb == 8000 - 512 - 4000


@pytest.mark.parametrize("told", ["tells_processes", "names_processes"])
def test_where_no_process_is_told_what_is_taken_counts_once_too(box: Any, told: str) -> None:
    box.switch("off")
    setattr(box.world, told, False)
    box.switch("on")
    free(box, 4000, pid=os.getpid())
    box.world.foreign(2500)
    (lease,) = status(box).leases
    assert lease.used_mb == 2500
    (gpu,) = box.start("web").plan.gpus
    assert gpu.budget_mb == 8000 - 512 - 4000
    assert box.switch("on").exit_code == 3


def test_a_card_that_is_lost_gives_no_room_and_its_lease_hinders_nobody(make_box: Any) -> None:
    box = make_box(8000, 8000, define=[WEB, NAP, *MODES])
    assert free(box, 4000, gpu=1, pid=os.getpid()).lease is not None
    box.world.lost.add(1)
    assert box.switch("on").exit_code == 0
    with pytest.raises(MachineLacks, match="GPU 1") as caught:
        free(box, 1000, gpu=1)
    assert caught.value.code == "gpu-lost"
    other = free(box, 4000).lease
    assert other is not None
    assert (other.gpu, [row.vram_mb for row in status(box).leases]) == (0, [4000, 4000])
    box.world.lost.add(0)
    with pytest.raises(MachineLacks, match="GPU 0"):
        free(box, 1000)


def test_what_is_refused_or_fails_leaves_no_lease(box: Any) -> None:
    with pytest.raises(DoesNotFit):
        free(box, 7900)
    box.world.holder = Holder(pid=1, user="somebody", command="switch", home="/other", since=0)
    with pytest.raises(Busy):
        free(box, 4000)
    box.world.holder = None
    box.world.fault("nap", "sleep-500")
    box.world.fault("nap", "unkillable")
    failed = free(box, 4000)
    assert failed.change is not None
    assert failed.change.exit_code in (6, 7)
    assert status(box).leases == () or failed.change.exit_code == 7


def test_putting_back_waits_for_whoever_changes_the_machine(box: Any) -> None:
    free(box, 4000)
    box.world.holder = Holder(pid=1, user="somebody", command="switch", home="/other", since=0)
    told: list[str] = []

    def hear(news: Any) -> None:
        told.append(news.text)
        box.world.holder = None

    box.world.clock.run(Gpumod(box.machine(), bare_tools()).free(FreeParams(back=True), hear))
    assert told[0] == "somebody is changing this machine: switch"
    assert box.world.states() == {"web": "ready", "nap": "ready"}


# --- what others are told while it is held ----------------------------------------------------------------------------


def switch(box: Any, mode: str, **more: Any) -> Any:
    return ask(box, "switch", SwitchParams(mode=mode, **more))


LEASED = "4000 MiB of GPU 0 are leased to somebody: train (pid"
NOT_BACK = "; what made room for it (nap) is not put back once mode off is reached"


def test_a_switch_says_whose_the_room_is_and_what_becomes_of_what_made_it(box: Any) -> None:
    free(box, 4000, pid=os.getpid(), what="train", for_s=3600)
    news: list[Any] = []
    tools = bare_tools()
    shown = switch(box, "off", dry_run=True)
    done = box.world.clock.run(Gpumod(box.machine(), tools).switch(SwitchParams(mode="off"), news.append))
    (note,) = done.notes
    assert note.startswith(LEASED)
    assert ", until " in note
    assert note.endswith(NOT_BACK)
    assert (done.exit_code, shown.plan.notes, done.plan.notes) == (0, (note,), (note,))
    assert next(one.plan.notes for one in news if one.plan) == (note,)
    again = switch(box, "off")
    assert (again.status, again.notes) == ("nothing-to-do", (note.removesuffix(NOT_BACK),))
    box.world.gone.add(os.getpid())
    assert switch(box, "on").notes == ()


def test_a_switch_to_what_made_the_room_does_not_say_that_it_stays_away(box: Any) -> None:
    free(box, 4000, pid=os.getpid(), what="train")
    refused = switch(box, "on")
    assert refused.exit_code == 3
    assert [note.startswith(LEASED) for note in refused.plan.notes] == [True]
    assert "not put back" not in refused.plan.notes[0]
    forced = switch(box, "on", force=True)
    assert (forced.exit_code, len(forced.notes)) == (0, 1)
    assert forced.notes[0].startswith(f"passed over: {LEASED}")


def test_one_service_that_is_started_beside_it_says_so_too(box: Any) -> None:
    box.define(world_service("small", 100, 9003))
    free(box, 4000, pid=os.getpid(), what="train")
    done = ask(box, "service_start", ServiceChange(service="small"))
    assert (done.exit_code, len(done.notes)) == (0, 1)
    assert done.notes[0].startswith(LEASED)
    assert "put back" not in done.notes[0]


def test_what_runs_on_no_card_of_this_machine_is_leased_to_nobody(box: Any) -> None:
    free(box, 4000, pid=os.getpid(), what="train")
    assert ask(box, "simulate", SimulateParams(mode="off", gpu_total_mb=8000)).notes == ()
    assert len(ask(box, "simulate", SimulateParams(mode="off")).notes) == 1


# --- what becomes of a lease when its run is left half-way ------------------------------------------------------------


def twice() -> None:
    interrupt(signal.SIGTERM)
    interrupt(signal.SIGTERM)


@pytest.mark.parametrize("way", ["rollback", "resume"])
def test_a_run_that_is_rolled_back_takes_its_lease_with_it(box: Any, way: str) -> None:
    box.when("sleep nap sent", twice)
    left = free(box, 4000).change
    assert left is not None
    assert left.exit_code == 7
    assert [row.vram_mb for row in status(box).leases] == [4000], "it holds until it is decided"
    assert box.recover(way).exit_code == 0
    kept = [4000] if way == "resume" else []
    assert [holding.vram_mb for holding in box.store.holdings()] == kept
    assert box.world.states() == {"web": "ready", "nap": "asleep" if kept else "ready"}
    assert box.switch("on").exit_code == (3 if kept else 0)
    dropped = [event for event in box.store.events(50) if event.kind == "lease-dropped"]
    assert len(dropped) == 1 - len(kept)


def test_a_lease_is_there_as_soon_as_its_run_and_no_sooner(box: Any) -> None:
    """Killed at every write of making room: whatever was left is closed by a rollback, and no lease stays."""
    copies: list[Any] = []
    box.every = lambda act: copies.append(box.copy(f"{len(copies)}")) if act.startswith("write") else None
    assert free(box, 4000).lease is not None
    box.every = lambda _: None
    seen = set()
    for left in copies:
        run = left.store.open_run()
        assert [h.id for h in left.store.holdings()] == ([run.lease] if run else [])
        if run is not None:
            assert left.recover("rollback").exit_code == 0
        assert left.store.holdings() == ()
        assert left.world.states() == {"web": "ready", "nap": "ready"}
        left.close()
        seen.add(run is not None)
    assert seen == {False, True}


def test_room_that_is_there_already_is_leased_without_a_run(box: Any) -> None:
    box.switch("off")
    runs = box.store.runs(9)
    made = free(box, 4000)
    assert made.lease is not None
    assert [holding.id for holding in box.store.holdings()] == [made.lease.id]
    assert box.store.runs(9) == runs


# --- what is to come back stays defined -------------------------------------------------------------------------------


def without_nap(**more: Any) -> ApplyParams:
    text = preset_tools().dump_box(Box({"web": WEB}, {"off": MODES[1]}))
    return ApplyParams(text=text, source="box.yaml", prune=True, **more)


TAKEN = [
    ("service_remove", lambda: ServiceRemove(service="nap", cascade=True)),
    ("service_remove", lambda: ServiceRemove(service="nap", cascade=True, stop=True)),
    ("apply", without_nap),
    ("apply", lambda: without_nap(now=True)),
]


@pytest.fixture
def alone(box: Any) -> Any:
    """Both services up, and no mode whose they are."""
    box.switch("off")
    box.start("web")
    box.start("nap")
    return box


@pytest.mark.parametrize(("operation", "params"), TAKEN)
@pytest.mark.parametrize("over", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_a_lease_is_to_bring_back_is_not_removed(alone: Any, operation: str, params: Any, over: bool) -> None:
    free(alone, 4000, pid=os.getpid() if over else None)
    alone.world.gone |= {os.getpid()} if over else set()
    before = alone.world.states()
    with pytest.raises(Failed) as refused:
        ask(alone, operation, params())
    assert (refused.value.code, refused.value.info.hint) == ("made-room", "gpumod free --back first")
    assert "4000 MiB of GPU 0 are leased to somebody" in refused.value.info.why
    assert (alone.world.states(), "nap" in alone.store.services()) == (before, True)
    free(alone)
    alone.stop("nap")
    ask(alone, operation, params())
    assert "nap" not in alone.store.services()


def test_what_is_removed_after_a_switch_is_owed_to_nobody(box: Any) -> None:
    free(box, 4000)
    box.switch("off")
    ask(box, "service_remove", ServiceRemove(service="nap", cascade=True))
    back = free(box)
    assert back.notes == ("the machine was switched to a mode since: that is left as it is",)
    assert box.world.states() == {}


def test_while_the_run_is_open_recover_is_the_way_out(alone: Any) -> None:
    alone.when("sleep nap sent", twice)
    free(alone, 4000)
    with pytest.raises(HalfWay, match="was left half-way"):
        ask(alone, "service_remove", ServiceRemove(service="nap", cascade=True, stop=True))


def test_what_is_no_longer_defined_is_not_put_back(make_box: Any) -> None:
    """A definition that was removed by hand: of a service that has nothing to do with others, and of a host."""
    router = world_service("router", 0, 9003, driver="world-host")
    hyde = world_service("hyde", 2000, host="router", sleep_mode="unload")
    box = make_box(8000, define=[WEB, hyde, router, world_service("tool", 500, 9004)])
    for service in ("web", "hyde", "tool"):
        box.start(service)
    free(box, 7400)
    box.stop("router", cascade=True)
    assert box.world.states() == {}
    for service in ("web", "router"):
        box.store.delete_service(service, event=Event(at=0.0, kind="removed", subject=service))
    told = (
        "hyde is not put back: its host router is no longer defined",
        "web is not put back: it is no longer defined",
    )
    assert free(box, dry_run=True).notes == told
    back = free(box)
    assert (back.notes, back.back and back.back.exit_code) == (told, 0)
    assert (box.world.states(), box.store.holdings()) == ({"tool": "ready"}, ())


def test_room_that_is_not_there_and_cannot_be_given_back(box: Any) -> None:
    box.when("stop web after", lambda: box.world.foreign(6000))
    made = free(box, 7000)
    assert made.change is not None
    assert made.change.error is not None
    assert (made.change.error.code, made.next) == ("room-not-there", "gpumod free --back")
    assert made.change.error.hint.endswith("what was put away is not back: gpumod free --back")
    box.world.strangers.clear()
    assert free(box).next == ""
    assert box.world.managed_mb() == {"web": 3000, "nap": 4000}
