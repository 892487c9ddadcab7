"""gpumod doctor: a current mode that is not whole is a finding; what was stopped on purpose is none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from gpumod.adapters.foreign.processes import AdoptedProcesses, identity_of
from gpumod.domain.adopted import Adopted
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.world_drivers import world_mode, world_service

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


def test_no_mode_is_no_finding(patient: Patient) -> None:
    assert "mode" not in {check.name for check in patient.doctor().checks}


def test_an_adopted_process_that_is_gone(patient: Patient) -> None:
    offer = SupervisorOffer(
        name="adopted-process", summary="as it is", factory=lambda *_: AdoptedProcesses(patient.box.world.clock)
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
