"""vLLM's sleep levels in a container, in switches on the simulated machine: VRAM and host RAM at every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpumod_sim
from gpumod_sim import procs
from tests.docker.dockerd import PYTHON, Dockerd
from tests.docker.test_docker_machine import inspect
from tests.machine.test_machine_sleeps_vllm import (
    AWAKE_MB,
    RESIDUE_MB,
    SLEEPER,
    WEIGHTS_MB,
    check_memory,
    prepare,
    ram_mb,
)

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, MakeMachine, Outcome

pytestmark = [pytest.mark.docker, pytest.mark.sim]


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    """Its simulated machine lies in another home: what is in one's own is not for containers."""
    return make_machine(beside=make_machine())


def into_container(machine: Machine, service: str) -> None:
    """The stand-in that the machine has for vLLM, with the ledger that it writes."""
    folder, package = machine.sim.folder, Path(gpumod_sim.__file__).parents[1]
    container = {
        "image": PYTHON,
        "program": f"{folder}/bin/vllm",
        "volumes": [f"{folder}:{folder}:rw", f"{package}:{package}"],
    }
    machine.ok("service", "edit", service, "--run-with", "docker", "--set", f"container={json.dumps(container)}")


@pytest.mark.parametrize("level", ["l1", "l2"])
def test_a_level_of_a_container_in_switches(machine: Machine, engine: Dockerd, level: str) -> None:
    prepare(machine, level)
    into_container(machine, SLEEPER)
    watch = machine.watch()
    done: list[Outcome] = []
    began: set[str] = set()
    for mode, state in (("rest", "sleeping"), ("think", "running"), ("rest", "sleeping"), ("think", "running")):
        done.append(machine.change("switch", mode, watch=watch))
        machine.whole(mode)
        assert machine.states()[SLEEPER] == state
        held_mb = machine.held()[SLEEPER]
        if state == "sleeping":
            assert 0 < held_mb <= RESIDUE_MB
            assert [abs(mb - WEIGHTS_MB) < 200 for mb in ram_mb(machine).values()] == ([True] if level == "l1" else [])
        else:
            assert AWAKE_MB - 2 <= held_mb <= AWAKE_MB
            assert ram_mb(machine) == {}
            machine.ask(SLEEPER)
        row = next(row for row in machine.status()["services"] if row["id"] == SLEEPER)
        assert row["vram_mb"] == held_mb, "what it holds is known by its processes"
        holder = next(one["pid"] for one in machine.allocations() if one["service"] == SLEEPER)
        assert procs.start_time(holder), "as this machine counts them"
        began.add(inspect(engine, machine, SLEEPER)["State"]["StartedAt"])
    assert len(began) == 1, "it slept; it was not stopped"
    done.append(machine.change("switch", "blank", watch=watch))
    machine.nothing_left()
    assert bool(check_memory(watch, done)) is (level == "l1")


def test_one_that_frees_nothing_in_its_container_is_stopped(machine: Machine, engine: Dockerd) -> None:
    prepare(machine, "l1")
    into_container(machine, SLEEPER)
    machine.change("switch", "think")
    machine.fault(SLEEPER, "sleep-frees-nothing")
    done = machine.change("switch", "rest")
    assert any(SLEEPER in note and "at l1 freed nothing" in note for note in done.json["notes"])
    machine.clear()
    assert SLEEPER not in machine.states()
    machine.change("switch", "blank")
    machine.nothing_left()
