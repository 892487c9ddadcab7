"""One changer at a time, and a machine that can be looked at meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.errors import Busy, GpumodError
from gpumod.domain.plan import Target, TargetMember
from gpumod.engine.change import change
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.recover import recover
from gpumod.testing.world_drivers import build_machine, quiet, world_service

ONE = world_service("one", 3000, 9000)


def starting(machine, service):
    target = Target(members=(TargetMember(service=service.id),), stop_others=False)
    return change(machine, f"start {service.id}", lambda _: Wanted(target, {service.id: service}), Options(), quiet)


@pytest.mark.parametrize("same_home", [True, False])
def test_a_second_changer_is_told_who_at_once(make_box, tmp_path, same_home):
    box = make_box(8000, define=[ONE])
    store = box.store if same_home else open_store(tmp_path / "other.db")
    other = build_machine(box.world, tmp_path, store)
    clock = box.world.clock

    async def both():
        first = asyncio.create_task(starting(box.machine(), ONE))
        await clock.sleep(0.5)
        began = clock.time_s
        for second in (starting(other, world_service("two", 1000, 9001)), recover(other, "resume", Options(), quiet)):
            with pytest.raises(Busy, match="somebody is changing this machine: start one") as busy:
                await second
            assert (busy.value.code, busy.value.exit_code) == ("machine-busy", 5)
        assert clock.time_s == began
        seen = await observe(box.machine())
        assert str(seen.services["one"].state) == "starting"
        return await first

    assert clock.run(both()).exit_code == 0
    assert box.world.states() == {"one": "ready"}
    box.check_sound()
    if not same_home:
        store.close()


def test_many_changers_leave_one_whole_state(make_box):
    services = [world_service(f"s{n}", 3000, 9000 + n) for n in range(8)]
    box = make_box(8000, define=services)

    async def one(service):
        try:
            return (await starting(box.machine(), service)).status.value
        except GpumodError as error:
            return error.code

    async def crowd():
        return await asyncio.gather(*(one(service) for service in services))

    ends = box.world.clock.run(crowd())
    assert sorted(ends) == ["done"] + ["machine-busy"] * 7
    assert list(box.world.states()) == [services[ends.index("done")].id]
    box.check_sound()
