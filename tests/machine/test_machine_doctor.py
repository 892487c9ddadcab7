"""gpumod doctor on a simulated machine: by the real program, with real processes and ports."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from gpumod_sim.ledger import Ledger

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = pytest.mark.sim


def wrong(machine: Machine) -> dict[str, dict[str, str]]:
    """What is not well, by name; the exit status says the same."""
    done = machine.quick("doctor")
    found = {check["name"]: check for check in done.json["checks"] if check["level"] in ("warning", "problem")}
    assert done.json["ok"] == (done.code == 0) == (not found), done
    assert all(check["hint"] for check in found.values()), found
    return found


def test_all_is_well_and_then_something_is_wrong(machine: Machine) -> None:
    machine.change("switch", "code")
    assert wrong(machine) == {}
    done = machine.quick("doctor")
    said = {check["name"]: check["message"] for check in done.json["checks"]}
    assert said["vllm"].startswith(f"{machine.sim.folder}/bin/vllm: ")
    assert "llama-server: version" in said["llama-server"]
    assert "embedding-code" in said["running"]
    assert not {"suspend", "swap", "devices"} & set(said)  # of a simulated card nothing is lost

    port = machine.ports["asr"]
    with socket.create_server(("127.0.0.1", port)):
        assert f"port {port} is taken by" in wrong(machine)["service asr"]["message"]
    machine.home.chmod(0o750)
    assert wrong(machine)["home"]["hint"] == f"chmod 700 {machine.home}"
    machine.home.chmod(0o700)
    assert wrong(machine) == {}


def test_a_start_that_takes_longer_than_it_may(machine: Machine) -> None:
    machine.change("service", "start", "hyde")
    machine.change("service", "stop", "hyde")
    took_s = machine.ok("service", "show", "hyde").json["footprint"]["start_s"]
    machine.ok("service", "edit", "hyde", "--startup-timeout", str(took_s / 2))
    found = wrong(machine)["service hyde"]
    assert (found["level"], "no start can succeed" in found["message"]) == ("problem", True)
    machine.ok("service", "edit", "hyde", "--startup-timeout", "600")
    assert wrong(machine) == {}


def test_secrets_that_others_can_read(machine: Machine) -> None:
    machine.quick("service", "secret", "set", "hyde", "HF_TOKEN", stdin="s3cret\n")
    assert wrong(machine) == {}
    (file,) = (machine.home / "secrets").iterdir()
    file.chmod(0o644)
    found = wrong(machine)["secrets"]
    assert f"chmod 600 {file}" in found["hint"]
    assert "s3cret" not in str(found)


@pytest.mark.skipif(os.environ.get("GPUMOD_TEST_PROBE", "sim") != "sim", reason="the ledger is changed by hand")
def test_what_lost_its_gpu_is_named(machine: Machine) -> None:
    machine.change("service", "start", "hyde")
    for row in machine.allocations():  # as a driver that was suspended forgets it
        Ledger(machine.sim).leave(row["pid"])
    found = wrong(machine)["service hyde"]
    assert "it answers, but holds 0 of" in found["message"]
    assert "gpumod service restart hyde" in found["hint"]


def test_services_that_listen_for_the_network(machine: Machine) -> None:
    machine.ok("settings", "set", "bind_host", "0.0.0.0")
    assert list(wrong(machine)) == ["network"]
    machine.change("service", "start", "hyde")
    machine.ok("settings", "set", "bind_host", "--default")
    assert "it listens on 0.0.0.0" in wrong(machine)["service hyde"]["message"]
    machine.change("service", "stop", "hyde")
    assert wrong(machine) == {}
