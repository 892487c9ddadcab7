"""`history show --follow`: what whoever looks on is told of a run is what whoever does it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumod.domain.progress import Progress, ProgressKind
from gpumod.domain.run import RunStatus, StepStatus
from gpumod.engine.change import change
from gpumod.engine.planning import Options, Wanted
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import RunRef
from gpumod.operations.targets import target_of_mode
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service

DEFINED = (
    world_service("web", 3000, 9001),
    world_service("code", 4000, 9002),
    world_mode("on", "web"),
    world_mode("both", "web", "code"),
    world_mode("code", "code"),
)


@pytest.fixture
def box(make_box: Any) -> Any:
    box = make_box(16000, define=DEFINED)
    assert box.switch("on").exit_code == 0
    return box


def follow(box: Any, run: str = "last") -> tuple[Any, list[Progress]]:
    """Follow a run alone: the result, and what was told."""
    told: list[Progress] = []
    gpumod = Gpumod(box.machine(), bare_tools())
    return box.world.clock.run(gpumod.history_show(RunRef(run=run, follow=True), progress=told.append)), told


def look_on(box: Any, mode: str, **options: Any) -> tuple[Any, Any, list[Progress], list[Progress]]:
    """Switch, and follow that switch from another gpumod: both results, what was told to whoever did it and to whoever
    looked on."""
    did: list[Progress] = []
    seen: list[Progress] = []
    machine = box.machine()
    target = target_of_mode(machine.store.modes()[mode])

    async def looker() -> Any:
        while not any(news.kind is ProgressKind.PLANNED for news in did):
            await machine.clock.sleep(0.05)
        return await Gpumod(box.machine(), bare_tools()).history_show(
            RunRef(run=did[0].run_id, follow=True), progress=seen.append
        )

    async def both() -> Any:
        wanted = Wanted(target, machine.store.services())
        doing = change(machine, f"switch {mode}", lambda _: wanted, Options(**options), did.append)
        return await asyncio.gather(doing, looker())

    outcome, followed = box.world.clock.run(both())
    return outcome, followed, did, seen


def steps(told: list[Progress]) -> list[tuple[Any, ...]]:
    """Ends of steps, in order; short steps may begin and end between two looks."""
    over = (StepStatus.DONE, StepStatus.FAILED)
    return [
        (news.step.n, news.step.action, news.step.service, news.step_status, news.text)
        for news in told
        if news.step and news.kind is ProgressKind.STEP and news.step_status in over
    ]


def test_a_switch_is_followed_to_its_end(box: Any) -> None:
    outcome, followed, did, seen = look_on(box, "both")
    assert (outcome.status, followed.run.status, followed.exit_code) == (RunStatus.DONE, RunStatus.DONE, 0)
    assert steps(seen) == steps(did)
    assert seen[0].plan is not None
    assert seen[0].plan.steps == outcome.plan.steps
    assert followed.run.id == outcome.run.id


def test_whoever_looks_on_sees_how_a_start_gets_on(box: Any) -> None:
    box.world.fault("code", "slow-start", 10)
    box.world.fault("code", "reads-slowly", 40)
    _, followed, _, seen = look_on(box, "both")
    assert followed.exit_code == 0
    told = [news.text for news in seen if news.kind is ProgressKind.WAITING]
    assert any("it reads its model" in text for text in told), told


def test_so_is_one_that_turns_back(box: Any) -> None:
    box.world.fault("code", "die-after", 0.7)
    outcome, followed, did, seen = look_on(box, "code")
    assert (outcome.exit_code, followed.exit_code) == (6, 6)
    assert followed.error == outcome.error
    assert steps(seen) == steps(did)
    (back,) = (news for news in seen if news.kind is ProgressKind.ROLLBACK)
    assert len([news for news in seen if news.kind is ProgressKind.PLANNED]) == 1
    assert back.text == outcome.error.message
    assert back.plan is not None
    assert [step.service for step in back.plan.steps] == [
        record.step.service for record in outcome.run.steps if record.phase == "rollback"
    ]


def test_so_is_one_that_is_left(box: Any) -> None:
    box.world.fault("code", "die-after", 0.7)
    outcome, followed, _, _ = look_on(box, "code", rollback=False)
    assert (outcome.exit_code, followed.exit_code, followed.error) == (7, 7, outcome.error)


def test_where_nobody_is_at_work_any_more_it_ends(box: Any) -> None:
    killed: list[Any] = []
    box.when("start code after", lambda: killed.append(box.copy("killed")))
    box.switch("both")
    result, told = follow(killed[0])
    assert (result.run.status, result.exit_code) == (RunStatus.RUNNING, 7)
    assert result.error.code == "interrupted-run"
    assert told[-1].step_status is StepStatus.RUNNING
    assert told[-1].step is not None
    assert told[-1].step.service == "code"
    killed[0].close()


def test_one_that_is_over_is_told_at_once(box: Any) -> None:
    before = box.world.clock.monotonic()
    result, told = follow(box)
    assert box.world.clock.monotonic() == before
    assert (result.run.command, result.exit_code, result.error) == ("switch on", 0, None)
    assert [status for *_, status, _ in steps(told)] == [StepStatus.DONE] * len(result.run.steps)
