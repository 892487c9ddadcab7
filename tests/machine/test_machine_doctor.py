"""gpumod doctor, and the marks of status, on a simulated machine: the real program, real processes and ports."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod_sim.ledger import Ledger
from tests.machine.strangers import started

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.sim, pytest.mark.slow]


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
    assert [check["name"] for check in done.json["checks"]].count("vllm") == 1  # by its name and by its path
    assert said["vllm"].startswith(f"{machine.sim.folder}/bin/vllm: ")
    assert "llama-server: version" in said["llama-server"]
    assert "embedding-code" in said["running"]
    assert not {"suspend", "swap", "devices"} & set(said)  # of a simulated card nothing is lost

    port = machine.ports["asr"]
    with socket.create_server(("127.0.0.1", port)):
        assert f"port {port} is taken by" in wrong(machine)["service asr"]["message"]
    machine.ok("service", "edit", "asr", "--gpus", "7")
    assert "asks for GPU 7" in wrong(machine)["service asr"]["message"]
    machine.ok("service", "edit", "asr", "--gpus", "any")
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
    machine.ok(
        "service", "edit", "tts", "--set", 'command=["uvicorn", "app:app", "--host", "0.0.0.0", "--port", "{port}"]'
    )
    assert "it is to listen on 0.0.0.0, for the network" in wrong(machine)["service tts"]["message"]


def test_marks_of_status(machine: Machine, until: Callable[..., Any]) -> None:
    port = machine.unused.pop()
    vllm = str(Path(machine.sim.folder) / "bin" / "vllm")
    argv = (vllm, "serve", "acme/Writer", "--port", str(port), "--gpu-memory-utilization", "0.25")
    with started(*argv, ready=f"http://127.0.0.1:{port}/health", until=until) as process:
        machine.ok("service", "adopt", str(process.pid))
        machine.change("service", "start", "hyde")
        machine.ok("service", "edit", "hyde", "--context-size", "2048")
        rows = {row["id"]: row for row in machine.status()["services"]}
        assert rows["writer"]["adopted"] == f"process {process.pid}"
        assert rows["hyde"]["adopted"] is None
        assert "context_size" in rows["hyde"]["drift"]
        assert rows["writer"]["drift"] == []
        argv = tuple(word for word in machine.argv("status") if word != "--json")
        shown = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"})
        lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.strip()}
        assert " A" in lines["writer"]
        assert " D" in lines["hyde"]
        assert "A adopted from others; D drift: defined otherwise now" in shown.stdout
        assert "with another context_size" in wrong(machine)["service hyde"]["message"]
        machine.ok("service", "release", "writer")
