"""`watch` over a world: what ended by itself comes back, what was ended by hand does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gpumod.cli.exits import exit_code_of
from gpumod.domain.adopted import Adopted
from gpumod.domain.mode import Want
from gpumod.domain.run import Handle
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ServiceChange
from gpumod.operations.watch_results import WatchParams
from gpumod.plugins.offers import SupervisorOffer
from gpumod.ports import Holder
from gpumod.testing.tools import bare_tools
from gpumod.testing.world import Proc, Recipe
from gpumod.testing.world_drivers import quiet, world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

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


def test_nothing_is_done_where_nothing_is_wrong(box: Any) -> None:
    assert box.look().mended == ()
    box.switch("on")
    seen = box.look()
    assert (seen.mode, seen.whole, seen.mended, seen.notes) == ("on", True, (), ())
    assert seen.held["nap"].vram_mb == 4000


def test_what_ended_by_itself_is_started_again_and_why_is_said(box: Any) -> None:
    box.switch("on")
    box.crash("base")
    seen = box.look()
    (done,) = seen.mended
    assert (done.what, done.subject, done.error) == ("restart", "base", None)
    assert done.why == "base: it exited with code 9"
    assert seen.whole
    assert box.world.states() == {"base": "ready", "front": "ready", "nap": "ready"}
    box.check_sound()


def test_what_was_stopped_by_hand_stays_so(box: Any) -> None:
    box.switch("on")
    box.look()
    box.stop("nap")
    seen = box.look()
    assert (seen.mended, seen.whole) == ((), False)
    assert box.world.states() == {"base": "ready", "front": "ready"}


@pytest.mark.parametrize(("service", "verb"), [("nap", "stop"), ("front", "sleep")])
def test_what_is_down_and_told_to_stop_stays_so(box: Any, service: str, verb: str) -> None:
    box.switch("on")
    seen = box.look()
    box.world.fault(service, "die-after", 0.1)
    box.crash(service)
    seen = box.look(seen)
    assert seen.mended[0].error is not None  # its way back has left it stopped
    box.world.faults.clear()
    assert box.ask(f"service_{verb}", ServiceChange(service=service)).status == "nothing-to-do"
    box.pass_time(600)
    seen = box.look(seen)
    assert (seen.mended, service in box.world.states()) == ((), False)
    box.start(service)
    box.crash(service)
    assert [done.subject for done in box.look(seen).mended] == [service]


def test_what_is_not_of_the_mode_is_left_alone(box: Any) -> None:
    box.switch("off")
    box.start("nap")
    seen = box.look()
    assert (seen.whole, seen.ok) == (False, False)
    assert seen.notes == ("also up, and not wanted by mode off: nap; gpumod switch off ends it",)
    box.busy()
    assert box.look().notes == (), "whoever changes the machine now is not worth a word"
    box.world.holder = None
    box.crash("nap")
    assert box.look().mended == ()


def test_a_member_that_slept_sleeps_again(box: Any) -> None:
    box.switch("on")
    box.start("nap", want=Want.ASLEEP)
    box.define(world_mode("on", "front", "nap:asleep"))
    box.crash("nap")
    assert box.look().mended[0].subject == "nap"
    assert box.world.states()["nap"] == "asleep"


def test_a_host_comes_back_with_its_members(box: Any) -> None:
    box.switch("hosted")
    box.look()
    box.crash("router")
    seen = box.look()
    assert seen.mended[0].subject == "guest, router"
    assert seen.whole
    box.check_sound()


@pytest.mark.slow
def test_it_is_restarted_a_few_times_and_then_left_alone(box: Any) -> None:
    box.switch("on")
    box.look()
    tries = 0
    for _ in range(40):
        if "nap" in box.world.alive():
            box.crash("nap")
        tries += len(box.look().mended)
        box.pass_time(5)
    assert tries == 3
    (note,) = box.look().notes
    assert "nap is left alone, it was restarted 3 times within an hour (it exited with code 9)" in note
    assert "gpumod service start nap" in note
    box.pass_time(3600)
    assert box.look().whole


def test_a_restart_that_does_not_fit_is_told(box: Any) -> None:
    box.switch("on")
    box.crash("nap")
    box.world.foreign(5000)
    seen = box.look()
    assert seen.mended[0].error is not None
    assert seen.mended[0].error.code == "does-not-fit"
    assert not seen.whole


def test_somebody_at_work_goes_first(box: Any) -> None:
    box.switch("on")
    box.look()
    box.crash("nap")
    box.world.holder = Holder(pid=7, user="somebody", command="switch off", home="/h", since=0.0)
    assert box.look().mended == ()
    box.world.holder = None
    assert box.look().mended[0].subject == "nap"


def test_what_a_person_has_mended_meanwhile_is_no_restart(box: Any) -> None:
    box.switch("on")
    box.look()
    box.crash("nap")
    box.world.fault("base", "hang")  # the look takes long

    async def both() -> Any:
        looks = asyncio.create_task(Gpumod(box.machine(), bare_tools()).watch(WatchParams()))
        await box.world.clock.sleep(1)
        box.world.faults.clear()
        await Gpumod(box.machine(), bare_tools()).service_start(ServiceChange(service="nap"))
        return await looks

    assert box.world.clock.run(both()).mended == ()
    assert box.store.events_of("watch-restart", limit=9) == ()


def test_an_open_run_is_left_to_a_person(box: Any) -> None:
    box.switch("on")
    box.look()
    box.stop("nap")
    box.world.fault("nap", "die-after", 0.1)
    assert box.start("nap", rollback=False).exit_code == 7
    box.world.holder = Holder(pid=7, user="ann", command="service start nap", home=str(box.home), since=0.0)
    seen = box.look()
    assert (seen.mended, seen.notes, exit_code_of(seen)) == ((), (), 0)  # somebody is at it
    box.world.holder = None
    seen = box.look()
    assert seen.mended == ()
    assert "is not closed: gpumod recover" in seen.notes[0]
    assert exit_code_of(seen) == 1


def test_the_exit_status_of_one_look_tells_whether_a_person_has_to_look(box: Any) -> None:
    assert exit_code_of(box.look()) == 0  # no mode is current
    box.switch("on")
    assert exit_code_of(box.look()) == 0
    box.crash("nap")
    assert exit_code_of(box.look()) == 0  # mended
    box.stop("nap")
    assert exit_code_of(box.look()) == 1
    box.world.holder = Holder(pid=7, user="ann", command="switch on", home=str(box.home), since=0.0)
    assert exit_code_of(box.look()) == 0  # not whole yet


def test_what_loses_its_gpu_is_restarted(box: Any) -> None:
    box.switch("on")
    before = box.look()
    box.world.alive()["nap"].mb.clear()  # a reset of the card: the process lives, and answers
    seen = box.look(before)
    assert "lost its 4000 MiB" in seen.mended[0].why
    assert box.world.managed_mb()["nap"] == 4000
    assert box.look(seen).mended == ()


def test_what_loses_its_gpu_while_somebody_is_at_work_is_restarted_later(box: Any) -> None:
    box.switch("on")
    before = box.look()
    box.world.alive()["nap"].mb.clear()
    box.world.holder = Holder(pid=7, user="somebody", command="switch off", home="/h", since=0.0)
    busy = box.look(before)
    assert busy.mended == ()
    box.world.holder = None
    done = box.look(busy)
    assert "lost its 4000 MiB" in done.mended[0].why
    assert box.world.managed_mb()["nap"] == 4000
    assert box.look(done).mended == ()


@pytest.mark.slow
def test_a_second_loss_right_after_the_first_is_mended_too(box: Any) -> None:
    box.switch("on")
    seen = box.look()
    box.world.alive()["nap"].mb.clear()
    seen = box.look(seen)
    tries = 0
    box.world.alive()["nap"].mb.clear()
    for _ in range(10):  # it is too early for the first of these
        seen = box.look(seen)
        tries += len(seen.mended)
        box.pass_time(5)
    assert tries == 1
    assert box.world.managed_mb()["nap"] == 4000


def test_a_loss_that_comes_with_a_fault_of_the_card_is_seen_when_the_card_is_back(box: Any) -> None:
    box.switch("on")
    before = box.look()
    box.world.alive()["nap"].mb.clear()
    box.world.lost.add(0)
    gone = box.look(before)
    assert gone.mended == ()
    box.world.lost.clear()
    assert "lost its 4000 MiB" in box.look(gone).mended[0].why


def test_what_was_put_to_sleep_meanwhile_has_lost_nothing(box: Any) -> None:
    box.switch("on")
    seen = box.look()
    box.start("nap", want=Want.ASLEEP)
    box.world.alive()["nap"].mb.clear()
    seen = box.look(seen)
    box.world.alive()["nap"].state = "ready"
    assert (seen.mended, box.look(seen).mended) == ((), ())


@pytest.mark.slow
def test_a_loss_that_cannot_be_mended_is_told_and_mended_when_it_can_be(box: Any) -> None:
    box.switch("on")
    seen = box.look()
    box.world.alive()["nap"].mb.clear()
    box.world.foreign(5000)
    errors = []
    for _ in range(30):
        seen = box.look(seen)
        errors += [done.error.code for done in seen.mended]
        box.pass_time(10)
    assert errors == ["does-not-fit"]
    assert seen.notes[0].startswith("nap is not restarted yet: ")
    box.world.strangers.clear()
    box.pass_time(300)
    (done,) = box.look(seen).mended
    assert (done.subject, done.error, box.world.managed_mb()["nap"]) == ("nap", None, 4000)


def test_what_puts_its_model_away_by_itself_has_lost_nothing(box: Any) -> None:
    box.define(world_service("lazy", 2000, 9006, unloads=True, **QUICK), world_mode("on", "lazy"))
    box.switch("on")
    before = box.look()
    box.world.alive()["lazy"].mb.clear()
    seen = box.look(before)
    assert (seen.mended, seen.notes) == ((), ())
    box.crash("lazy")  # what ends is another thing
    assert box.look(seen).mended[0].subject == "lazy"


class Theirs(WorldSupervisor):
    """Keeps processes that somebody else started, as those of the adopted are kept: by their pid."""

    name = "adopted-process"

    def _find(self, handle: Handle) -> Proc | None:
        return self.world.procs.get(handle.launched.adopted.pid if handle.launched.adopted else 0)


def test_what_was_adopted_is_not_restarted(box: Any) -> None:
    proc = box.world.spawn("ollama", "theirs", Recipe(vram_mb=2000, load_s=0.1), (0,), port=9007)
    box.settled()
    told = Adopted(pid=proc.pid, identity="theirs")

    def keeper(home: Path, *_: object) -> Theirs:
        return Theirs(box.world, home, quiet)

    box.offers = (SupervisorOffer(name="adopted-process", summary="theirs", factory=keeper),)
    box.define(world_service("ollama", 2000, 9007, adopted=told), world_mode("on", "ollama", "nap"))
    box.switch("on")
    before = box.look()
    assert before.held["ollama"].vram_mb == 2000
    proc.mb.clear()  # its keep_alive is over
    seen = box.look(before)
    assert (seen.mended, seen.notes) == ((), ())
    assert proc.alive
    box.crash("ollama")
    assert box.look(seen).mended == ()
