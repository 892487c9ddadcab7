"""Images: pulled by a real engine from a registry of the tests' own, with progress; and an image's own HEALTHCHECK."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import registry as registries
from tests.docker.dockerd import HTTPD, Dockerd, busybox_tree
from tests.docker.registry import Registry
from tests.docker.test_docker_machine import add, row, wait
from tests.machine.conftest import fetch

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

pytestmark = [pytest.mark.docker, pytest.mark.sim]


@pytest.fixture
def registry(engine: Dockerd) -> Iterator[Registry]:
    with registries.running() as registry:
        registry.add("test/httpd", busybox_tree(), Cmd=["/bin/httpd", "-f", "-p", "8000", "-h", "/www"])
        yield registry
        engine.docker("rm", "-f", *engine.said("ps", "-aq").split(), check=False)
        engine.docker("rmi", f"{registry.name}/test/httpd", check=False)


def test_an_image_is_pulled_with_progress(machine: Machine, registry: Registry, engine: Dockerd) -> None:
    registry.slow_s = 0.15
    image = f"{registry.name}/test/httpd"
    port = add(machine, "web", image=image)
    process = machine.begin("service", "start", "web")
    told = wait(lambda: [line for line in machine.ok("service", "logs", "web").json["lines"] if "MiB" in line])
    assert told[0].startswith(f"pulling {image}: ")
    done = machine.end(process)
    assert done.code == 0, done
    assert f"1 start web: pending: pulling {image}: " in done.stderr
    assert fetch(f"http://127.0.0.1:{port}/health") == "fine\n"
    assert machine.ok("service", "logs", "web").json["lines"] == [], "what the pull said is gone"
    machine.change("service", "stop", "web")
    registry.asked.clear()
    machine.change("service", "start", "web")
    assert registry.asked == [], "it is there"
    machine.change("service", "stop", "web")


@pytest.mark.parametrize(("broken", "says"), [(False, ("manifest unknown", "not found")), (True, ("digest", "verif"))])
def test_a_pull_that_fails_is_told_and_rolled_back(
    machine: Machine, registry: Registry, engine: Dockerd, broken: bool, says: tuple[str, ...]
) -> None:
    """Also where the engine answers 200 and says only in the stream that it failed."""
    registry.broken = broken
    machine.change("service", "start", "tts")
    pid = row(machine, "tts")["pid"]
    add(machine, "web", image=f"{registry.name}/test/{'httpd' if broken else 'missing'}")
    machine.ok("mode", "create", "web", "--services", "web")
    done = machine.change("switch", "web", code=6)
    assert done.error["code"] == "pull-failed", done
    assert any(word in done.error["why"].lower() for word in says), done.error
    assert "docker pull" in done.error["hint"]
    assert machine.states() == {"tts": "running"}
    assert row(machine, "tts")["pid"] == pid, "it was pulled before anything was stopped"


def test_a_pull_that_is_given_up_leaves_nothing_running(machine: Machine, registry: Registry, engine: Dockerd) -> None:
    registry.slow_s = 2.0
    add(machine, "web", image=f"{registry.name}/test/httpd")
    process = machine.begin("service", "start", "web")
    wait(lambda: any("/blobs/" in path for path in registry.asked))
    process.send_signal(signal.SIGINT)
    done = machine.end(process)
    assert done.code == 6, done
    machine.nothing_left()
    assert engine.said("ps", "-aq") == ""


def test_one_that_is_never_to_be_pulled_must_be_there(machine: Machine, registry: Registry) -> None:
    """Which is told before anything is stopped for it."""
    machine.change("service", "start", "tts")
    pid = row(machine, "tts")["pid"]
    add(machine, "web", "--set", "pull=never", image=f"{registry.name}/test/httpd")
    machine.ok("mode", "create", "web", "--services", "web")
    done = machine.quick("switch", "web")
    assert (done.code, done.error["code"], registry.asked) == (9, "no-image", [])
    assert (machine.states(), row(machine, "tts")["pid"]) == ({"tts": "running"}, pid)
    machine.change("switch", "blank")


def test_an_image_that_changed_makes_a_new_container(machine: Machine, engine: Dockerd) -> None:
    engine.docker("tag", HTTPD, "gpumod-test/moving:latest")
    add(machine, "web", image="gpumod-test/moving")
    machine.change("service", "start", "web")
    first = engine.said("ps", "-q")
    engine.add_image(
        "gpumod-test/moving:latest", busybox_tree("finer\n"), 'CMD ["/bin/httpd","-f","-p","8000","-h","/www"]'
    )
    machine.change("service", "restart", "web")
    assert engine.said("ps", "-q") != first
    assert fetch(f"http://127.0.0.1:{machine.ports['web']}/health") == "finer\n"
    machine.change("service", "stop", "web")


def test_the_images_own_healthcheck(machine: Machine, engine: Dockerd, until: Callable[..., Any]) -> None:
    check = "HEALTHCHECK --interval=1s --retries=1 CMD /bin/cat /healthy"
    command = 'CMD ["/bin/sh","-c","sleep 1; touch /healthy; exec httpd -f -p 8000 -h /www"]'
    engine.add_image("gpumod-test/checked:latest", busybox_tree(), check, command)
    add(machine, "web", "--set", "health=container", image="gpumod-test/checked")
    machine.change("service", "start", "web")
    assert row(machine, "web")["state"] == "running"
    container = engine.said("ps", "-q")
    engine.docker("exec", container, "/bin/busybox", "rm", "/healthy")
    until(lambda: row(machine, "web")["state"] == "unhealthy", "its check to fail")
    assert "/healthy" in row(machine, "web")["last_error"]
    engine.docker("exec", container, "/bin/touch", "/healthy")
    until(lambda: row(machine, "web")["state"] == "running", "its check to pass")
    machine.change("service", "stop", "web")


def test_without_a_healthcheck_that_is_said_at_once(machine: Machine, engine: Dockerd) -> None:
    add(machine, "web", "--set", "health=container")
    done = machine.change("service", "start", "web", code=6)
    assert "has no HEALTHCHECK" in done.error["why"], done
