"""What seems unhealthy before a change is looked at twice: one missed answer restarts nothing."""

from __future__ import annotations

import asyncio

import pytest

from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import RunStatus
from gpumod.engine.change import change
from gpumod.engine.planning import Options, Wanted, plan_for
from gpumod.engine.preflight import launches, preflight
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeRef, NoParams, SwitchParams
from gpumod.operations.targets import target_of_mode
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import quiet, world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

SERVICES = [world_service(name, 1000, 9001 + n, load_s=0.2) for n, name in enumerate(("ill", "well", "more"))]


@pytest.fixture
def box(make_box):
    box = make_box(
        9000, define=[*SERVICES, world_mode("old", "ill", "well"), world_mode("new", *("ill", "well", "more"))]
    )
    assert box.switch("old").exit_code == 0
    return box


def switch_while(box, *hangs):
    """Switch to `new`; `hangs` are (service, from, until) in seconds: so long it gives no answer."""
    machine = box.machine()
    wanted = Wanted(target_of_mode(machine.store.modes()["new"]), machine.store.services())

    async def hang(service, begin_s, end_s):
        await machine.clock.sleep(begin_s)
        box.world.fault(service, "hang")
        await machine.clock.sleep(end_s - begin_s)
        box.world.faults.pop(service)

    async def all_at_once():
        doing = change(machine, "switch new", lambda _: wanted, Options(cascade=True), box.told.append)
        outcome, *_ = await asyncio.gather(doing, *(hang(*one) for one in hangs))
        return outcome

    return box.world.clock.run(all_at_once())


def pids(box):
    return {service: proc.pid for service, proc in box.world.alive().items()}


def test_one_missed_answer_restarts_nothing(box):
    before = pids(box)
    outcome = switch_while(box, ("well", 0.0, 2.5))
    assert outcome.status is RunStatus.DONE
    assert [step.service for step in outcome.plan.steps] == ["more", "*"]
    assert before.items() <= pids(box).items()


def test_what_misses_two_is_restarted_and_what_missed_one_of_them_is_not(box):
    before = pids(box)
    outcome = switch_while(box, ("ill", 0.0, 8.0), ("well", 1.0, 6.5))
    assert outcome.status is RunStatus.DONE, outcome.error
    after = pids(box)
    assert after["well"] == before["well"]
    assert after["ill"] != before["ill"]


@pytest.mark.parametrize(("hangs_s", "told"), [(2.5, "running"), (60.0, "unhealthy")])
def test_status_and_a_dry_run_tell_of_what_misses_two_answers_only(box, hangs_s, told):
    machine = box.machine()
    gpumod = Gpumod(machine, bare_tools())

    async def hang():
        box.world.fault("well", "hang")
        await machine.clock.sleep(hangs_s)
        box.world.faults.pop("well")

    def ask(operation, params):
        async def both():
            hanging = asyncio.create_task(hang())
            result = await getattr(gpumod, operation)(params)
            await hanging
            return result

        return box.world.clock.run(both())

    assert {row.id: row.state for row in ask("status", NoParams()).services}["well"] == told
    assert ask("mode_status", ModeRef(mode="old")).whole == (told == "running")
    would = ask("switch", SwitchParams(mode="new", dry_run=True)).plan.steps
    assert ("well" in {step.service for step in would}) == (told == "unhealthy")


def test_a_supervisor_that_asks_a_program_before_a_start_keeps_nobody_waiting(make_box):
    held_up, asked = [], []

    class Asks(WorldSupervisor):
        def check(self, handle, launch):
            asked.append(handle.service)
            try:
                asyncio.get_running_loop()
                held_up.append(handle.service)
            except RuntimeError:
                pass

    box = make_box(9000, define=SERVICES)
    box.offers = (SupervisorOffer(name="asks", summary="x", factory=lambda home, *_: Asks(box.world, home, quiet)),)
    box.settings = {"supervisor": "asks"}
    machine = box.machine()
    target = Target(members=(TargetMember(service="ill"),), stop_others=False)
    planned = plan_for(machine, box.observe(), Wanted(target, machine.store.services()), Options())

    async def look() -> None:
        await preflight(machine, planned, await launches(machine, planned))

    asyncio.run(look())  # a real loop: the world's has no threads
    assert held_up == []
    assert len(asked) == 1
