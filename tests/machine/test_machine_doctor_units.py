"""gpumod doctor under a real systemd: units of gpumod's own and of others, and what their managers say of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpumod.adapters.checkup import ThisComputer
from gpumod.domain.errors import Failed
from tests.machine.test_machine_adopted_units import FOLDERS, Units, systemctl, units

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.sim]

__all__ = ["units"]


def told(machine: Machine) -> dict[str, str]:
    """All that was said of each thing."""
    found: dict[str, str] = {}
    for check in machine.quick("doctor").json["checks"]:
        found[check["name"]] = f"{found.get(check['name'], '')}{check['level']}: {check['message']}\n{check['hint']}\n"
    return found


def test_the_managers_themselves() -> None:
    computer = ThisComputer()
    for scope in ("user", "system"):
        manager = computer.manager(scope)
        assert manager.state in ("running", "degraded", "starting")
        assert manager.version[0].isdigit()
    shown = computer.units("system", {"dbus.service", "suspend.target", "no-such.service"})
    assert shown["dbus.service"].loaded
    assert shown["dbus.service"].kind in ("notify", "notify-reload", "simple")
    assert (shown["dbus.service"].stop_timeout_s or 0) > 0
    assert shown["suspend.target"].load_state in ("loaded", "masked")
    assert not shown["no-such.service"].loaded
    with pytest.raises(Failed):
        ThisComputer(answer_s=0.0).manager("system")


def test_masked_targets_are_seen() -> None:
    subprocess.run(["systemctl", "mask", "sleep.target"], check=True, capture_output=True)
    try:
        assert ThisComputer().units("system", {"sleep.target"})["sleep.target"].load_state == "masked"
    finally:
        subprocess.run(["systemctl", "unmask", "sleep.target"], check=True, capture_output=True)


@pytest.mark.parametrize("scope", ["user", "system"])
def test_services_of_gpumods_own(machine: Machine, scope: str) -> None:
    machine.ok("settings", "set", "supervisor", f"systemd-{scope}")
    machine.change("service", "start", "hyde")
    said = told(machine)
    assert said[f"systemd {scope}"].startswith("ok: systemd 2")
    assert ("linger" in said) == (scope == "user")
    assert "polkit" not in said  # root needs no rule
    assert "service hyde" not in said
    folder = machine.home / "templates"
    folder.mkdir()
    body = '{% extends "unit.service.j2" %}{% block service %}TimeoutStopSec=1\n{% endblock %}'
    (folder / "vllm.service.j2").write_text(body)
    assert "its unit is not the one that gpumod would write now" in told(machine)["service hyde"]
    machine.change("service", "restart", "hyde")
    assert "systemd kills it 1 s after it was asked to stop" in told(machine)["service hyde"]
    (folder / "vllm.service.j2").unlink()
    machine.change("service", "restart", "hyde")
    assert "service hyde" not in told(machine)


def test_units_of_others(machine: Machine, units: Units, until: Callable[..., Any]) -> None:
    vllm, port, other = Path(machine.sim.folder) / "bin" / "vllm", machine.unused.pop(), machine.unused.pop()
    command = f"{vllm} serve acme/Writer --gpu-memory-utilization 0.2 --enable-sleep-mode"
    units.add(
        "writer.service", "user", f"{command} --port {port} --host 0.0.0.0", f"http://127.0.0.1:{port}/health",
        "Environment=VLLM_SERVER_DEV_MODE=1\nTimeoutStopSec=2",
    )  # fmt: skip
    machine.ok("service", "adopt", "writer.service")
    said = told(machine)["service writer"]
    assert f"it listens on 0.0.0.0, port {port}" in said
    assert "--host 127.0.0.1" in said
    assert "systemd kills it 2 s after it was asked to stop" in said
    assert "than is defined here" not in said

    file = FOLDERS["user"] / "writer.service"
    file.write_text(file.read_text().replace(f"--port {port} --host 0.0.0.0", f"--port {other} --host 127.0.0.1"))
    said = told(machine)["service writer"]
    assert "the file of its unit writer.service was changed since systemd read it" in said
    assert "systemctl --user daemon-reload" in said

    systemctl("user", "daemon-reload")
    machine.change("service", "stop", "writer")
    said = told(machine)["service writer"]
    assert f"its unit says another port than is defined here: port {other}" in said
    assert f"gpumod service edit writer --port {other}" in said
    edited = machine.ok("service", "edit", "writer", "--port", str(other)).json
    assert "stays as whoever set it up made it" in edited["notes"][0]
    assert "than is defined here" not in told(machine).get("service writer", "")
    machine.ok("service", "edit", "writer", "--port", str(port))
    said = told(machine)["service writer"]
    assert "listen" not in said  # it says --host 127.0.0.1 now
    file.write_text(file.read_text().replace(" --host 127.0.0.1", ""))
    systemctl("user", "daemon-reload")
    assert "its command line says that it is to listen on 0.0.0.0" in told(machine)["service writer"]

    machine.ok("service", "edit", "writer", "--port", str(other))
    machine.ok("mode", "create", "theirs", "--services", "writer")
    machine.change("switch", "theirs")
    assert told(machine)["mode"].startswith("ok: theirs")
    systemctl("user", "stop", "writer.service")  # by whoever it belongs to: that is meant
    assert told(machine)["mode"].startswith("ok: theirs")
    text = file.read_text()
    file.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/false", text, flags=re.MULTILINE))
    systemctl("user", "daemon-reload")
    systemctl("user", "start", "writer.service")
    until(lambda: systemctl("user", "is-failed", "writer.service") == "failed", "systemd to give it up")
    said = told(machine)["mode"]
    assert said.startswith("problem: mode theirs is not whole: writer (its unit has failed (")
    assert "gpumod switch theirs starts it again" in said
    machine.change("switch", "blank")
    machine.ok("service", "release", "writer", "--cascade")
