"""A reload of the system manager's units can take the GPUs away from containers: not without being asked for."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
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


async def test_a_new_text_is_refused_before_anything_is_stopped(system: Any, container: str) -> None:
    before = system.reloads()
    for attempt in (
        lambda: system.supervisor.check(system.handle(), system.launch(SLEEPER)),
        lambda: system.supervisor.check(system.handle(), system.launch(SLEEPER, stop_timeout_s=3.0)),
    ):
        with pytest.raises(Failed) as caught:
            attempt()
        assert caught.value.code == "containers-with-gpus"
        assert container in caught.value.info.why
    with pytest.raises(Failed):
        await system.start(SLEEPER)
    assert not system.path().exists()
    assert system.reloads() == before


async def test_it_goes_on_where_it_is_asked_for(system: Any, container: str) -> None:
    system.supervisor = system.another(daemon_reload="always")
    handle = await system.start(SLEEPER)
    assert (await system.one(handle)).alive
    await system.supervisor.stop(handle, system.launch(SLEEPER))
    assert containers_with_gpus() == (container,)


async def test_an_unchanged_text_needs_no_reload(system: Any, tmp_path: Path) -> None:
    handle = await system.start(SLEEPER)
    await system.supervisor.stop(handle, system.launch(SLEEPER))
    before = system.reloads()
    words = ["systemd-run", "--quiet", "--scope", f"--unit=docker-{'a' * 64}", sys.executable, "-c", INSIDE]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    process = subprocess.Popen([*words, str(tmp_path)])
    try:
        while not containers_with_gpus():
            time.sleep(0.01)
        system.supervisor.check(system.handle(), system.launch(SLEEPER))
        handle = await system.start(SLEEPER)
        await system.supervisor.stop(handle, system.launch(SLEEPER))
        assert system.reloads() == before
    finally:
        process.kill()
        process.wait()


async def test_the_users_manager_has_no_containers_to_care_for(tmp_path: Path, system: Any, container: str) -> None:
    user = type(system)(tmp_path / "home", "user")
    try:
        handle = await user.start(SLEEPER)
        await user.supervisor.stop(handle, user.launch(SLEEPER))
        assert containers_with_gpus() == (container,)
    finally:
        user.sweep()
