"""A reload of the system manager's units can take the GPUs away from containers: not without being asked for."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.systemd.reloading import containers_with_gpus
from gpumod.domain.errors import Failed
from gpumod.testing.supervisor_bench import SLEEPER

pytestmark = pytest.mark.systemd

INSIDE = "import os, sys, time; os.chroot(sys.argv[1]); os.chdir('/'); print('in', flush=True); time.sleep(600)"


@pytest.fixture
def container(tmp_path: Path) -> Iterator[str]:
    """What a container with a GPU is to the kernel: a control group of its engine's, and a root with the device."""
    device = tmp_path / "root" / "dev" / "nvidiactl"
    device.parent.mkdir(parents=True)
    device.touch()
    id_ = secrets.token_hex(32)
    words = ["systemd-run", "--quiet", "--scope", f"--unit=docker-{id_}", sys.executable, "-c", INSIDE]
    process = subprocess.Popen([*words, str(tmp_path / "root")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    yield id_[:12]
    process.kill()
    process.communicate()


def test_containers_with_gpus_are_found(container: str) -> None:
    assert containers_with_gpus() == (container,)


def test_containers_without_gpus_do_not_count(container: str, tmp_path: Path) -> None:
    (tmp_path / "root" / "dev" / "nvidiactl").unlink()
    assert containers_with_gpus() == ()


@pytest.fixture
def held(system: Any) -> Iterator[None]:
    """A unit of somebody's that names ours: so the manager does not forget it, and must be told to read it again."""
    keeper = Path("/etc/systemd/system/keeper.target")
    keeper.write_text(f"[Unit]\nAfter={system.name()}\n")
    system.systemctl("start", "keeper.target")
    yield
    system.systemctl("stop", "keeper.target")
    keeper.unlink()


async def test_mostly_no_reload_is_needed(system: Any, container: str) -> None:
    before = system.reloads()
    for timeout_s in (3.0, 4.0):  # a new unit, then a changed one
        handle = await system.start(SLEEPER, stop_timeout_s=timeout_s)
        assert system.shown("TimeoutStopUSec") == f"{timeout_s:g}s"
        await system.supervisor.stop(handle, system.launch(SLEEPER))
    handle = await system.start("raise SystemExit(3)")
    await system.supervisor.exited(handle)
    handle = await system.start(SLEEPER, stop_timeout_s=5.0)  # one that failed
    assert system.shown("TimeoutStopUSec") == "5s"
    await system.supervisor.stop(handle, system.launch(SLEEPER))
    assert system.reloads() == before
    assert containers_with_gpus() == (container,)


@pytest.mark.usefixtures("held")
async def test_one_that_is_needed_is_refused_and_leaves_no_trace(system: Any, container: str) -> None:
    handle = await system.start(SLEEPER)  # new: it is found without
    await system.supervisor.stop(handle, system.launch(SLEEPER))
    before, text = system.reloads(), system.path().read_text()
    with pytest.raises(Failed) as caught:
        await system.start(SLEEPER, stop_timeout_s=3.0)
    assert caught.value.code == "containers-with-gpus"
    assert container in caught.value.info.why
    assert system.path().read_text() == text
    handle = await system.start(SLEEPER)  # the old text needs none
    await system.supervisor.stop(handle, system.launch(SLEEPER))
    assert system.reloads() == before

    system.supervisor = system.another(daemon_reload="always")  # it is asked for
    handle = await system.start(SLEEPER, stop_timeout_s=3.0)
    assert system.reloads() == before + 1
    assert system.shown("TimeoutStopUSec") == "3s"
    await system.supervisor.stop(handle, system.launch(SLEEPER))


async def test_a_unit_that_runs_is_not_read_again_beside_containers(system: Any, container: str) -> None:
    handle = await system.start(SLEEPER)
    with pytest.raises(Failed) as caught:
        await system.supervisor.install(handle, system.launch(SLEEPER, stop_timeout_s=3.0))
    assert container in caught.value.info.why
    await system.supervisor.stop(handle, system.launch(SLEEPER))


async def test_the_users_manager_has_no_containers_to_care_for(tmp_path: Path, system: Any, container: str) -> None:
    user = type(system)(tmp_path / "home", "user")
    try:
        handle = await user.start(SLEEPER)
        await user.supervisor.stop(handle, user.launch(SLEEPER))
        assert containers_with_gpus() == (container,)
    finally:
        user.sweep()
