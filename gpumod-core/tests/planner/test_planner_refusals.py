"""What cannot be planned, by example, and what comes with what is stopped."""

from __future__ import annotations

import pytest

from gpumod.domain.errors import Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.plan import Policy, Target, TargetMember
from gpumod.domain.states import State
from gpumod.testing.examples import SERVICES, acts, machine, plan, reading, service, want


def test_one_port_is_given_up_before_it_is_taken() -> None:
    same = SERVICES | {"other": service("other", 100, 8006)}
    made = plan(machine(reading("chat", State.RUNNING, 7000)), want("other"), services=same)
    assert made.steps[1].waits_for == (1,)


def test_a_port_is_given_up_by_whoever_has_it_now() -> None:
    a, b = service("a", 100, 9001), service("b", 100, 9002)
    up = machine(reading("a", State.RUNNING, 100, launched=a), reading("b", State.RUNNING, 100, launched=b))
    edited = {"a": service("a", 100, 9003), "b": service("b", 100, 9004), "c": service("c", 100, 9001)}
    made = plan(up, want("a", "b", "c", restart=("a",)), services=edited)
    steps = {(step.action.value, step.service): step for step in made.steps}
    assert steps["stop", "a"].n in steps["start", "c"].waits_for
    swapped = {"a": service("a", 100, 9002), "b": service("b", 100, 9001)}
    made = plan(up, want("a", "b", restart=("a", "b")), services=swapped)
    steps = {(step.action.value, step.service): step for step in made.steps}
    for begun in ("a", "b"):
        assert {steps["stop", "a"].n, steps["stop", "b"].n} <= set(steps["start", begun].waits_for)


def test_no_service_no_gpu() -> None:
    nothing = machine(totals=())
    assert plan(nothing, want("router")).fits
    with pytest.raises(GpumodError) as caught:
        plan(nothing, want("chat"))
    assert caught.value.code == "no-gpu"


@pytest.mark.parametrize(
    ("target", "error", "code", "names"),
    [
        (want("nope"), UnknownName, "unknown-service", ["nope"]),
        (want("lost"), UnknownName, "unknown-dependency", ["lost", "gone"]),
        (want("a"), UsageError, "dependency-cycle", ["a -> b -> c -> a"]),
        (want("chat", "twin"), UsageError, "port-conflict", ["chat", "twin", "8006"]),
        (want(TargetMember(service="chat", gpus=(7,))), UnknownName, "unknown-gpu", ["chat", "7"]),
        (want("chat", stop=("chat",)), UsageError, "wanted-and-stopped", ["chat"]),
        (want(stop=("nope",)), UnknownName, "unknown-service", ["nope"]),
        (want(mode=None, stop_others=False, stop=("embedding",)), Failed, "has-dependents", ["embedding", "hyde"]),
        (want(mode=None, stop_others=False, restart=("embedding",)), Failed, "has-dependents", ["hyde"]),
    ],
)
def test_refusals_name_what_is_wrong(target: Target, error: type[GpumodError], code: str, names: list[str]) -> None:
    odd = SERVICES | {
        "lost": service("lost", 1, 9001, depends_on=["gone"]),
        "a": service("a", 1, 9002, depends_on=["b"]),
        "b": service("b", 1, 9003, depends_on=["c"]),
        "c": service("c", 1, 9004, depends_on=["a"]),
        "twin": service("twin", 1, 8006),
    }
    found = machine(
        reading("embedding", State.RUNNING, 4000),
        reading("hyde", State.RUNNING, 5000),
        reading("chat", State.RUNNING, 7000),
    )
    with pytest.raises(error) as caught:
        plan(found, target, services=odd)
    assert caught.value.code == code
    for name in names:
        assert name in str(caught.value)
    assert caught.value.info.hint


def test_cascade_stops_dependents_first_and_restarts_them() -> None:
    found = machine(reading("embedding", State.RUNNING, 4000), reading("hyde", State.RUNNING, 5000))
    policy = Policy(alternatives=False, cascade=True)
    made = plan(found, want(mode=None, stop_others=False, stop=("embedding",)), policy=policy)
    assert acts(made)[:2] == [("stop", "hyde"), ("stop", "embedding")]
    again = plan(found, want(mode=None, stop_others=False, restart=("embedding",)), policy=policy)
    assert acts(again)[:4] == [("stop", "hyde"), ("stop", "embedding"), ("start", "embedding"), ("start", "hyde")]
