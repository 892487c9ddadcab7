"""`watch` over a world: what ended by itself comes back, what was ended by hand does not, a boot is no crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.errors import Failed, UnknownName
from gpumod.domain.mode import Want
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeDelete, SettingWrite
from gpumod.operations.watch_results import WatchParams, WatchResult
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

QUICK = {"load_s": 0.2, "stop_s": 0.05}
SERVICES = (
    world_service("base", 1000, 9001, **QUICK),
    world_service("front", 500, 9002, depends_on=("base",), **QUICK),
    world_service("nap", 4000, 9003, naps=True, **QUICK),
    world_service("big", 7000, 9004, **QUICK),
    world_service("router", 0, 9005, driver="world-host", **QUICK),
    world_service("guest", 1000, host="router", sleep_mode="unload", **QUICK),
)
MODES = (world_mode("on", "front", "nap"), world_mode("hosted", "guest"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[*SERVICES, *MODES])


def ask(box: Any, operation: str, params: Any) -> Any:
    return box.world.clock.run(getattr(Gpumod(box.machine(), bare_tools()), operation)(params))


def look(box: Any, before: WatchResult | None = None) -> WatchResult:
    result: WatchResult = ask(box, "watch", WatchParams(held=before.held if before else {}))
    return result


def pass_time(box: Any, seconds: float) -> None:
    box.world.clock.run(box.world.clock.sleep(seconds))


def crash(box: Any, service: str) -> None:
    box.world.crash(service, 9)
    box.settled()


def boot(box: Any, number: int = 2) -> None:
    """The machine goes down and comes up again: all processes are gone."""
    while box.world.alive():
        box.world.crash(next(iter(box.world.alive())), -9)
    box.settled()
    box.world.boot = number


def test_nothing_is_done_where_nothing_is_wrong(box: Any) -> None:
    assert look(box).mended == ()
    box.switch("on")
    seen = look(box)
    assert (seen.mode, seen.whole, seen.mended, seen.notes) == ("on", True, (), ())
    assert seen.held["nap"].vram_mb == 4000


def test_what_ended_by_itself_is_started_again_and_why_is_said(box: Any) -> None:
    box.switch("on")
    crash(box, "base")
    seen = look(box)
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("restart", "base", None)
    assert done.why == "base: it exited with code 9"
    assert seen.whole
    assert box.world.states() == {"base": "ready", "front": "ready", "nap": "ready"}
    box.check_sound()


def test_what_was_stopped_by_hand_stays_so(box: Any) -> None:
    box.switch("on")
    look(box)
    box.stop("nap")
    seen = look(box)
    assert (seen.mended, seen.whole) == ((), False)
    assert box.world.states() == {"base": "ready", "front": "ready"}


def test_what_is_not_of_the_mode_is_left_alone(box: Any) -> None:
    box.switch("off")
    box.start("nap")
    look(box)
    crash(box, "nap")
    assert look(box).mended == ()


def test_a_member_that_slept_sleeps_again(box: Any) -> None:
    box.switch("on")
    box.start("nap", want=Want.ASLEEP)
    box.define(world_mode("on", "front", "nap:asleep"))
    crash(box, "nap")
    assert look(box).mended[0].subject == "nap"
    assert box.world.states()["nap"] == "asleep"


def test_a_host_comes_back_with_its_members(box: Any) -> None:
    box.switch("hosted")
    look(box)
    crash(box, "router")
    seen = look(box)
    assert seen.mended[0].subject == "guest, router"
    assert seen.whole
    box.check_sound()


def test_it_is_restarted_a_few_times_and_then_left_alone(box: Any) -> None:
    box.switch("on")
    look(box)
    tries = 0
    for _ in range(40):
        if "nap" in box.world.alive():
            crash(box, "nap")
        tries += len(look(box).mended)
        pass_time(box, 5)
    assert tries == 3
    (note,) = look(box).notes
    assert "nap is left alone, it was restarted 3 times within an hour (it exited with code 9)" in note
    assert "gpumod service start nap" in note
    pass_time(box, 3600)
    assert look(box).whole


def test_a_restart_that_does_not_fit_is_told(box: Any) -> None:
    box.switch("on")
    crash(box, "nap")
    box.world.foreign(5000)
    seen = look(box)
    assert seen.mended[0].error is not None
    assert seen.mended[0].error.code == "does-not-fit"
    assert not seen.whole


def test_somebody_at_work_goes_first(box: Any) -> None:
    box.switch("on")
    look(box)
    crash(box, "nap")
    box.world.holder = Holder(pid=7, user="somebody", command="switch off", home="/h", since=0.0)
    assert look(box).mended == ()
    box.world.holder = None
    assert look(box).mended[0].subject == "nap"


def test_an_open_run_is_left_to_a_person(box: Any) -> None:
    box.switch("on")
    look(box)
    box.stop("nap")
    box.world.fault("nap", "die-after", 0.1)
    assert box.start("nap", rollback=False).exit_code == 7
    seen = look(box)
    assert seen.mended == ()
    assert "is not closed: gpumod recover" in seen.notes[0]


def test_what_loses_its_gpu_is_restarted(box: Any) -> None:
    box.switch("on")
    before = look(box)
    box.world.alive()["nap"].mb.clear()  # a reset of the card: the process lives, and answers
    seen = look(box, before)
    assert "lost its 4000 MiB" in seen.mended[0].why
    assert box.world.managed_mb()["nap"] == 4000
    assert look(box, seen).mended == ()


# --- boot -----------------------------------------------------------------------------------------------------------


def test_after_a_boot_the_mode_is_brought_up_by_a_plan(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("hosted")
    look(box)
    boot(box)
    seen = look(box)
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("boot", "on", None)
    assert (seen.mode, seen.whole) == ("on", True)
    assert next(s.service for s in done.change.steps if s.action == "start") == "base"
    assert look(box).mended == ()
    box.check_sound()


def test_the_last_mode_comes_back(box: Any) -> None:
    box.settings["boot_mode"] = "@last"
    box.switch("hosted")
    look(box)
    boot(box)
    assert (look(box).mended[0].subject, box.store.current_mode()) == ("hosted", "hosted")


def test_without_a_boot_mode_nothing_comes_up(box: Any) -> None:
    box.switch("on")
    look(box)
    boot(box)
    assert look(box).mended == ()
    assert box.world.states() == {}
    box.settings["boot_mode"] = "on"  # set later: the next boot is meant
    assert look(box).mended == ()


def test_the_first_watch_of_a_machine_at_work_is_no_boot(box: Any) -> None:
    box.settings["boot_mode"] = "hosted"
    box.switch("on")
    assert look(box).mended == ()
    crash(box, "nap")
    assert look(box).mended[0].what == "restart"


class Unit:
    """Stands where systemd's unit of `watch` is."""

    name, path = "gpumod.service", Path("/units/gpumod.service")

    def __init__(self) -> None:
        self.there = False

    async def install(self) -> bool:
        was, self.there = self.there, True
        return not was

    async def uninstall(self) -> bool:
        was, self.there = self.there, False
        return was

    def advice(self) -> tuple[str, ...]:
        return ("linger",)


def test_installing_it_is_no_boot(box: Any) -> None:
    unit = Unit()

    def set_up(**what: bool) -> WatchResult:
        tools = bare_tools(
            watch_unit=lambda scope: (scope or "user", unit), from_environment={"vllm_bin": "GPUMOD_VLLM_BIN"}
        )
        made: WatchResult = box.world.clock.run(Gpumod(box.machine(), tools).watch(WatchParams(**what)))
        return made

    made = set_up(install=True).unit
    assert made is not None
    assert (made.installed, made.changed, made.manager, unit.there) == (True, True, "user", True)
    assert made.notes[0] == "linger"
    assert "settings set boot_mode" in made.notes[1]
    assert made.notes[2].startswith("vllm_bin comes from the environment here")
    box.settings["boot_mode"] = "on"
    assert look(box).mended == ()
    boot(box)
    assert look(box).mended[0].what == "boot"
    gone = set_up(uninstall=True).unit
    assert gone is not None
    assert (gone.installed, gone.changed, unit.there) == (False, True, False)
    assert box.world.states() != {}


def test_a_boot_in_the_middle_of_a_switch(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    look(box)
    left = []
    box.when("start router after", lambda: left.append(box.copy("cut")))
    box.switch("hosted")
    cut = left[0]
    cut.settings["boot_mode"] = "on"
    assert cut.store.open_run() is not None
    boot(cut)
    seen = look(cut)
    assert [m.what for m in seen.mended] == ["recover", "boot"]
    assert (seen.mode, seen.whole, cut.store.open_run()) == ("on", True, None)
    cut.check_sound()
    cut.close()


@pytest.mark.slow
def test_a_boot_mode_that_does_not_fit_is_tried_again_and_given_up(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    look(box)
    boot(box)
    box.world.foreign(6000)
    tries, notes = 0, []
    for _ in range(400):
        seen = look(box)
        tries += len(seen.mended)
        notes += seen.notes
        pass_time(box, 10)
    assert tries == 12
    assert notes == ["on is given up after 12 tries: gpumod switch, when it can be"]


def test_the_boot_mode_is_a_mode_that_is_there(box: Any) -> None:
    with pytest.raises(UnknownName):
        ask(box, "settings_set", SettingWrite(key="boot_mode", value="oon"))
    assert ask(box, "settings_set", SettingWrite(key="boot_mode", value="@last")).value == "@last"
    box.settings["boot_mode"] = "hosted"
    with pytest.raises(Failed, match="what comes up after a boot"):
        ask(box, "mode_delete", ModeDelete(mode="hosted"))
