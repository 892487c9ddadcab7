"""`watch` after a boot: the boot mode comes up by a plan, once, and a person goes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumod.domain.errors import Failed, UnknownName
from gpumod.domain.run import Event
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeDelete, SettingWrite, SwitchParams
from gpumod.operations.watch_results import WatchParams, WatchResult
from gpumod.operations.watching import BOOT_TRIES, MOST_TRIES, NO_TRY
from gpumod.testing.tools import WatchFile, bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

QUICK = {"load_s": 0.2, "stop_s": 0.05}
SERVICES = (
    world_service("base", 1000, 9001, **QUICK),
    world_service("front", 500, 9002, depends_on=("base",), **QUICK),
    world_service("nap", 4000, 9003, naps=True, **QUICK),
    world_service("router", 0, 9005, driver="world-host", **QUICK),
    world_service("guest", 1000, host="router", sleep_mode="unload", **QUICK),
)
MODES = (world_mode("on", "front", "nap"), world_mode("hosted", "guest"), world_mode("off"))


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(8000, define=[*SERVICES, *MODES])


def test_after_a_boot_the_mode_is_brought_up_by_a_plan(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("hosted")
    box.look()
    box.boot()
    seen = box.look()
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("boot", "on", None)
    assert (seen.mode, seen.whole) == ("on", True)
    assert next(s.service for s in done.change.steps if s.action == "start") == "base"
    assert box.look().mended == ()
    box.check_sound()


def test_the_last_mode_comes_back(box: Any) -> None:
    box.settings["boot_mode"] = "@last"
    box.switch("hosted")
    box.look()
    box.boot()
    assert (box.look().mended[0].subject, box.store.current_mode()) == ("hosted", "hosted")


def test_without_a_boot_mode_nothing_comes_up(box: Any) -> None:
    box.switch("on")
    box.look()
    box.boot()
    assert box.look().mended == ()
    assert box.world.states() == {}
    box.settings["boot_mode"] = "on"  # set later: the next boot is meant
    assert box.look().mended == ()


def test_what_somebody_started_before_the_first_look_of_a_boot_is_looked_after(box: Any) -> None:
    box.switch("on")
    box.look()
    box.boot()
    box.ask("switch", SwitchParams(mode="hosted"))
    box.pass_time(100)
    assert box.look().mended == ()
    box.crash("router")
    assert box.look().mended[0].what == "restart"
    assert box.look().whole


def test_the_first_watch_of_a_machine_at_work_is_no_boot(box: Any) -> None:
    box.settings["boot_mode"] = "hosted"
    box.switch("on")
    assert box.look().mended == ()
    box.crash("nap")
    assert box.look().mended[0].what == "restart"


def test_installing_it_is_no_boot(box: Any, tmp_path: Path) -> None:
    unit = WatchFile(tmp_path, "user")

    def set_up(**what: bool) -> WatchResult:
        tools = bare_tools(
            watch_unit=lambda scope: (scope or "user", WatchFile(tmp_path, scope or "user")),
            from_environment={"vllm_bin": "GPUMOD_VLLM_BIN"},
        )
        made: WatchResult = box.world.clock.run(Gpumod(box.machine(), tools).watch(WatchParams(**what)))
        return made

    made = set_up(install=True).unit
    assert made is not None
    assert (made.installed, made.changed, made.manager, unit.there()) == (True, True, "user", unit.path)
    assert made.notes[0] == "linger"
    assert "settings set boot_mode" in made.notes[1]
    assert made.notes[2].startswith("vllm_bin comes from the environment here")
    box.settings["boot_mode"] = "on"
    assert box.look().mended == ()
    box.boot()
    assert box.look().mended[0].what == "boot"
    gone = set_up(uninstall=True).unit
    assert gone is not None
    assert (gone.installed, gone.changed, unit.there()) == (False, True, None)
    assert box.world.states() != {}


def test_a_boot_in_the_middle_of_a_switch(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    left = []
    box.when("start router after", lambda: left.append(box.copy("cut")))
    box.switch("hosted")
    cut = left[0]
    cut.settings["boot_mode"] = "on"
    assert cut.store.open_run() is not None
    cut.boot()
    seen = cut.look()
    assert [m.what for m in seen.mended] == ["recover", "boot"]
    assert (seen.mode, seen.whole, cut.store.open_run()) == ("on", True, None)
    cut.check_sound()
    cut.close()


@pytest.mark.slow
def test_a_boot_mode_that_does_not_fit_is_tried_again_and_given_up(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    box.world.foreign(6000)
    tries, notes = 0, []
    for _ in range(400):
        seen = box.look()
        tries += len(seen.mended)
        notes += seen.notes
        box.pass_time(10)
    assert tries == 12
    assert notes == ["on is given up after 12 tries: gpumod switch, when it can be"]


@pytest.mark.slow
def test_a_full_disk_does_not_cost_the_boot_mode(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    box.world.free_disk_mb = 10
    for _ in range(400):
        assert not any("given up" in note for note in box.look().notes)
        box.pass_time(10)
    box.world.free_disk_mb = 100_000
    box.pass_time(300)
    box.world.foreign(6000)
    assert [done.error.code for done in box.look().mended] == ["does-not-fit"]
    box.world.strangers.clear()
    box.pass_time(300)
    assert [done.error for done in box.look().mended] == [None]
    assert box.look().mode == "on"


def test_after_a_day_of_a_full_disk_the_boot_mode_is_given_up_as_ever(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    data = {"boot": box.machine().boot()}
    for n in range(2 * MOST_TRIES):
        kind = NO_TRY if n % 2 else "boot-try"
        box.store.add_event(Event(at=box.world.clock.now(), kind=kind, subject="machine", data=data))
    box.world.foreign(6000)
    tried = 0
    for _ in range(BOOT_TRIES + 3):
        box.pass_time(301)
        tried += len(box.look().mended)
    assert tried == BOOT_TRIES


def test_the_boot_mode_is_a_mode_that_is_there(box: Any) -> None:
    with pytest.raises(UnknownName):
        box.ask("settings_set", SettingWrite(key="boot_mode", value="oon"))
    assert box.ask("settings_set", SettingWrite(key="boot_mode", value="@last")).value == "@last"
    box.settings["boot_mode"] = "hosted"
    with pytest.raises(Failed, match="what comes up after a boot"):
        box.ask("mode_delete", ModeDelete(mode="hosted"))


# --- a person goes first ----------------------------------------------------------------------------------------------


def person(box: Any, *words: str, **options: Any) -> Any:
    """What somebody types: `switch MODE`."""
    return box.ask("switch", SwitchParams(mode=words[1], **options))


def test_what_a_person_switched_to_before_the_first_look_stays(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    person(box, "switch", "hosted")
    seen = box.look()
    assert (seen.mended, seen.mode, seen.whole) == ((), "hosted", True)
    (note,) = seen.notes
    assert "switch hosted has changed the machine since; gpumod switch MODE" in note
    again = box.look(seen)
    assert (again.mended, again.notes, box.store.current_mode()) == ((), (), "hosted")
    box.boot(3)  # the next boot is another
    assert box.look().mended[0].subject == "on"


def test_what_a_person_switched_to_between_two_tries_stays(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("on")
    box.look()
    box.boot()
    box.world.foreign(6000)
    assert box.look().mended[0].error.code == "does-not-fit"
    person(box, "switch", "off")
    box.world.strangers.clear()
    box.pass_time(60)
    seen = box.look()
    assert (seen.mended, seen.mode) == ((), "off")
    assert "switch off has changed the machine" in seen.notes[0]


def test_a_run_that_a_person_left_open_in_this_boot_is_theirs(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("off")
    box.look()
    box.boot()
    box.world.fault("nap", "die-after", 0.1)
    assert person(box, "switch", "on", no_rollback=True).exit_code == 7
    box.world.faults.clear()
    before = box.world.states()
    assert box.look().mended == ()
    seen = box.look()
    assert "(switch on) is not closed: gpumod recover" in seen.notes[0]
    assert (seen.mended, box.world.states()) == ((), before)


def test_tries_of_its_own_are_no_persons(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("off")
    box.look()
    box.boot()
    box.world.fault("nap", "die-after", 0.1)
    assert box.look().mended[0].error.code == "died-while-starting"
    box.world.faults.clear()
    box.pass_time(60)
    assert [done.error for done in box.look().mended] == [None]
    assert box.store.runs(1)[0].command == "watch: switch on"


@pytest.mark.slow
def test_its_own_switch_that_was_cut_off_is_closed_and_tried_again(box: Any) -> None:
    box.settings["boot_mode"] = "on"
    box.switch("hosted")
    box.look()
    box.boot()
    left = []
    box.when("start base after", lambda: left.append(box.copy("cut")))
    box.look()
    cut = left[0]
    cut.settings["boot_mode"] = "on"
    cut.pass_time(60)
    seen = cut.look()
    assert [(done.what, done.error) for done in seen.mended] == [("recover", None), ("boot", None)]
    assert seen.mended[0].why == "gpumod watch ended in the middle of it"
    assert seen.whole
    cut.check_sound()
    cut.close()


def test_a_kill_while_the_first_boot_is_noted_switches_no_machine_at_work(box: Any) -> None:
    box.settings["boot_mode"] = "hosted"
    box.switch("on")
    left = []
    box.every = lambda label: left.append(box.copy(f"{len(left)}")) if label == "write add_event before" else None
    box.look()
    assert len(left) == 2
    for cut in left:
        cut.settings["boot_mode"] = "hosted"
        assert cut.look().mended == ()
        assert cut.store.current_mode() == "on"
        cut.close()
