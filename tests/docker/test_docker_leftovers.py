"""Containers that nobody will start any more go, and nobody else's do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.docker.dockerd import HTTPD, Dockerd

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.sim]


def names(engine: Dockerd) -> set[str]:
    return set(engine.said("ps", "-a", "--format", "{{.Names}}").split())


def add(machine: Machine, service: str) -> str:
    """Define a service in a container; the container's name."""
    port = machine.unused.pop()
    words = ("--driver", "fastapi", "--port", str(port), "--vram-mb", "0", "--run-with", "docker")
    command = json.dumps(["/bin/httpd", "-f", "-p", "{port}", "-h", "/www"])
    options = (f"command={command}", f"container={json.dumps({'image': HTTPD})}")
    machine.ok("service", "add", "--id", service, *words, *(w for o in options for w in ("--set", o)))
    return f"gpumod-{service}.{(machine.home / 'home-id').read_text().strip()}"


def test_one_goes_when_its_service_is_kept_by_another(machine: Machine, engine: Dockerd) -> None:
    web, ears = add(machine, "web"), add(machine, "ears")
    home = web.removeprefix("gpumod-web.")
    mine = ("--label", f"gpumod.home={home}", "--label", "gpumod.service=")
    engine.docker("create", "--name", "web", HTTPD)
    engine.docker("create", "--name", "gpumod-web.0123456789ab", "--label", "gpumod.home=0123456789ab", HTTPD)
    engine.docker("create", "--name", f"gpumod-old.{home}", *mine[:3], f"{mine[3]}old", HTTPD)
    others = {"web", "gpumod-web.0123456789ab"}
    for service in ("web", "ears"):
        machine.change("service", "start", service)
    machine.change("service", "stop", "ears")

    found = next(c for c in machine.quick("doctor").json["checks"] if c["name"] == "service old")
    assert found["message"].startswith(f"the container gpumod-old.{home} is left")
    assert found["hint"] == f"docker -H {engine.url} rm gpumod-old.{home}"
    machine.ok("service", "edit", "web", "--run-with", "process")
    assert names(engine) == {web, ears, *others}, "what is up stays, and so does what can be started again"
    machine.change("service", "stop", "web")
    assert names(engine) == {ears, *others}
    machine.ok("service", "edit", "ears", "--run-with", "process")
    assert names(engine) == others
