"""Adopted containers in runs: one that is gone does not come back, which is told; one that cannot be asked is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gpumod.api import ContainerFacts, Handle, MachineLacks, ProcessStatus
from gpumod.domain.adopted import Adopted
from gpumod.domain.plan import Target, TargetMember
from gpumod.operations.params import RecoverParams
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.world import Proc
from gpumod.testing.world_drivers import quiet, world_service
from gpumod.testing.world_parts import WorldSupervisor

THEIRS = world_service("theirs", 1000, 9000, load_s=5.0, adopted=Adopted(container="a1" * 32, name="theirs"))
SERVICES = (THEIRS, world_service("own", 1000, 9001), world_service("come", 1000, 9002))
CHANGE = Target(members=(TargetMember(service="come"),), stop=("own", "theirs"), stop_others=False)
LEFT_OUT = (
    "theirs did not come back: an adopted process that has ended, or a container that is gone, is not started again"
)


class Engine(WorldSupervisor):
    """Its containers are `there` or not, which it fails to tell with `error`; and it has restarted them so often."""

    name = "adopted-container"
    there = True
    error: Exception | None = None
    restarts = 0

    def container(self, name: str) -> ContainerFacts | None:
        return None

    def containers(self) -> tuple[ContainerFacts, ...]:
        return ()

    def has(self, adopted: Adopted) -> bool:
        if self.error is not None:
            raise self.error
        return self.there

    def _find(self, handle: Handle) -> Proc | None:
        """By what it is, whatever run it is."""
        found = [proc for proc in self.world.procs.values() if proc.service == handle.service]
        return found[-1] if found else None

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        told = await super().status(handles)
        more = {"restarts": self.restarts, "detail": "it is about to be restarted"} if self.restarts else {}
        return {service: status.model_copy(update=more) for service, status in told.items()}


@pytest.fixture
def box(make_box: Callable[..., Any]) -> Any:
    box = make_box(8000, define=SERVICES)
    box.engine = Engine(box.world, box.home, quiet)
    box.offers = (SupervisorOffer(name=Engine.name, summary="", factory=lambda *_: box.engine, adopts=True),)
    for service in ("theirs", "own"):
        assert box.start(service).exit_code == 0
    box.world.fault("come", "die-after", 1.0)
    return box


@pytest.mark.parametrize("error", [None, MachineLacks("no-engine", "no container engine answers")])
def test_one_that_is_there_or_cannot_be_asked_after_is_started_again(box: Any, error: Exception | None) -> None:
    box.engine.error = error
    outcome = box.change("change", CHANGE)
    assert (outcome.exit_code, outcome.error.code, outcome.notes) == (6, "died-while-starting", ())
    assert box.world.states() == {"theirs": "ready", "own": "ready"}


def test_what_breaks_in_asking_is_not_passed_over(box: Any) -> None:
    box.engine.error = RuntimeError("it never heard of that")
    outcome = box.change("change", CHANGE)
    assert (outcome.exit_code, outcome.error.details["rollback"]["code"]) == (7, "internal")


def test_one_that_is_gone_is_told_in_the_error_of_the_change(box: Any) -> None:
    box.engine.there = False
    outcome = box.change("change", CHANGE)
    assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting")
    assert (outcome.error.why.endswith(f"; {LEFT_OUT}"), outcome.notes) == (True, ())
    assert box.world.states() == {"own": "ready"}


@pytest.mark.parametrize("is_killed", [True, False])
def test_one_that_is_gone_is_told_by_the_recovery_that_was_asked_for(box: Any, is_killed: bool) -> None:
    """Whether or not the run that was left open has an error."""
    box.engine.there = False
    if is_killed:
        copies: list[Any] = []
        box.when("start come before", lambda: copies.append(box.copy("killed")))
        box.change("change", CHANGE)
        (killed,) = copies
        killed.engine = Engine(killed.world, killed.home, quiet)
        killed.engine.there = False
        killed.offers = (SupervisorOffer(name=Engine.name, summary="", factory=lambda *_: killed.engine, adopts=True),)
    else:
        killed = box
        assert box.change("change", CHANGE, rollback=False).exit_code == 7
    told = killed.ask("recover", RecoverParams(way="rollback"))
    assert (told.open_run, told.change.error, told.change.exit_code) == (None, None, 0)
    assert LEFT_OUT in told.notes
    assert LEFT_OUT in told.change.notes
    assert killed.world.states() == {"own": "ready"}
    if is_killed:
        killed.close()


def test_one_that_its_engine_restarts_while_it_starts_has_died(box: Any) -> None:
    assert box.stop("theirs").exit_code == 0
    box.engine.restarts = 1
    began = box.world.clock.now()
    outcome = box.start("theirs")
    assert (outcome.exit_code, outcome.error.code) == (6, "died-while-starting")
    assert outcome.error.why == "theirs starts", "its log tells more than what becomes of it"
    assert box.world.clock.now() - began < 5.0
