"""gpumod doctor and services that ended by themselves, or that cannot be started: said once, with what mends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.foreign.processes import AdoptedProcesses, identity_of
from gpumod.adapters.systemd.supervisor import SystemdSupervisor
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import MachineLacks
from gpumod.domain.run import Handle
from gpumod.plugins.offers import SupervisorOffer
from gpumod.ports import Launch
from gpumod.testing.world_drivers import world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

Patient = Any
"""Of conftest."""


def test_a_member_that_was_killed(patient: Patient) -> None:
    patient.box.switch("both")
    assert patient.said("mode").message == "both: nothing of it has ended by itself"
    patient.box.world.crash("code", -9)
    patient.box.settled()
    wrong = patient.wrong()
    assert list(wrong) == ["mode"]
    assert wrong["mode"] == (
        "problem: mode both is not whole: code (it was killed by signal 9) -> "
        "gpumod switch both starts it again; gpumod service logs code tells why it ended"
    )
    patient.box.switch("both")
    assert patient.wrong() == {}


def test_several_are_one_finding(patient: Patient) -> None:
    patient.box.switch("both")
    patient.box.crash("code")
    patient.box.crash("web")
    said = patient.said("mode")
    assert said.message == "mode both is not whole: code (it exited with code 9), web (it exited with code 9)"
    assert said.hint == "gpumod switch both starts them again; gpumod service logs code tells why it ended"


def test_what_was_stopped_on_purpose_is_well(patient: Patient) -> None:
    patient.box.switch("both")
    patient.box.stop("code")
    assert patient.wrong() == {}
    assert patient.said("mode").level == "ok"


def test_what_is_not_of_the_mode_and_has_ended(patient: Patient) -> None:
    patient.box.switch("web")
    patient.box.start("code")
    patient.box.crash("code")
    wrong = patient.wrong()
    assert wrong == {
        "service code": "problem: it exited with code 9 -> gpumod service start code starts it again; "
        "gpumod service logs code tells why it ended"
    }


class Away(WorldSupervisor):
    """A supervisor whose manager does not run."""

    def check(self, handle: Handle, launch: Launch) -> None:
        if handle.service != "code":
            raise MachineLacks("no-manager", "its manager does not run", hint="start it")
        raise MachineLacks("no-binary", "its program is not there", hint="install it")


class Breaks(WorldSupervisor):
    """A supervisor with a bug."""

    def check(self, handle: Handle, launch: Launch) -> None:
        raise TypeError("a stranger's bug")


def test_a_supervisor_that_breaks_is_a_finding_and_no_driver_is_blamed(patient: Patient) -> None:
    box = patient.box
    offer = SupervisorOffer(name="odd", summary="odd", factory=lambda *_: Breaks(box.world, box.home, lambda _: None))
    box.offers = (offer,)
    box.settings["supervisor"] = "odd"
    wrong = patient.wrong()
    assert list(wrong) == ["services"]
    assert "code, web: what is to start it breaks: TypeError: a stranger's bug" in wrong["services"]
    assert "gpumod plugins" in wrong["services"]


def test_what_hinders_many_is_said_once(patient: Patient) -> None:
    box = patient.box
    offer = SupervisorOffer(name="away", summary="away", factory=lambda *_: Away(box.world, box.home, lambda _: None))
    box.offers = (offer,)
    box.settings["supervisor"] = "away"
    box.define(*(world_service(name, 100, port) for name, port in (("asr", 9100), ("tts", 9101))))
    assert patient.wrong() == {
        "services": "problem: asr, tts, web: its manager does not run -> start it",
        "service code": "problem: its program is not there -> install it",
    }


def test_no_mode_is_no_finding(patient: Patient) -> None:
    assert "mode" not in {check.name for check in patient.doctor().checks}


def test_an_adopted_process_that_is_gone(patient: Patient) -> None:
    offer = SupervisorOffer(
        name="adopted-process",
        summary="as it is",
        factory=lambda home, *_: AdoptedProcesses(home, patient.box.world.clock),
    )
    patient.box.offers = (offer,)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as theirs:
        told = Adopted(pid=theirs.pid, identity=identity_of(theirs.pid) or "")
        patient.box.define(world_service("theirs", 0, 9009, adopted=told), world_mode("web", "web", "theirs"))
        patient.box.switch("off")
        patient.box.define(world_mode("off", "theirs"))
        assert "mode" not in patient.wrong()
        theirs.kill()
    assert patient.wrong()["mode"] == (
        "problem: mode off is not whole: theirs (the process that was adopted is gone) -> "
        "start theirs by hand, then: gpumod service release theirs; gpumod service adopt PID"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as another user")
def test_a_program_that_the_service_user_may_not_execute(patient: Patient, tmp_path: Path) -> None:
    """The driver names it without a folder: it is found where the unit finds it."""
    program = tmp_path / "bin" / "world-runtime"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    offer = SupervisorOffer(
        name="systemd-system",
        summary="units",
        factory=lambda home, home_id, settings, clock: SystemdSupervisor(
            home, home_id, settings, clock, scope="system"
        ),
    )
    patient.box.offers = (offer,)
    patient.box.settings |= {"supervisor": "systemd-system", "user": "nobody", "bin_path": str(program.parent)}
    (told,) = [said for said in patient.doctor().checks if said.name == "service web" and "nobody" in said.message]
    assert told.level == "problem"
    assert told.message == f"the user nobody, as whom it runs, may not read or execute {program}"


def test_one_that_asks_for_a_gpu_that_is_not_there(patient: Patient) -> None:
    patient.box.define(world_service("far", 100, 9009, gpus=(0, 5)))
    said = patient.said("service far")
    assert (said.message, said.hint) == (
        "service 'far' asks for GPU 5, which this machine has not",
        "set `gpus` to one of these, or to any",
    )
