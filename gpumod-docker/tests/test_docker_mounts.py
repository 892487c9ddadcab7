"""Mounts are judged by where they really are, by whoever asks, at every start (SEC-D9)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.api import Allocation, Handle, MachineLacks, Service, Settings
from gpumod_docker.driver import DockerDriver
from gpumod_docker.mounts import refuse_source
from gpumod_docker.supervisor import DockerSupervisor


def test_homes_are_kept_out_where_they_really_are(tmp_path: Path) -> None:
    """`/home` is often a link to a larger disk."""
    (tmp_path / "disk/homes/ann/models").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk/homes")
    for refused in (
        "disk",
        "disk/homes",
        "home",
        "home/ann",
        "disk/homes/ann",
        "home/ann/.ssh",
        "disk/homes/ann/.aws/x",
    ):
        with pytest.raises(ValueError, match="SEC-D9"):
            refuse_source(f"{tmp_path}/{refused}", homes=f"{tmp_path}/home")
    for fine in ("home/ann/models", "disk/homes/ann/.cache/huggingface", "other"):
        refuse_source(f"{tmp_path}/{fine}", homes=f"{tmp_path}/home")


def test_a_home_that_is_a_link_is_kept_out_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk/ann/.ssh").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/ann").symlink_to(tmp_path / "disk/ann")
    for refused in ("home/ann", "home/ann/.ssh", "disk", "disk/ann", "disk/ann/.ssh/id"):
        with pytest.raises(ValueError, match="SEC-D9"):
            refuse_source(f"{tmp_path}/{refused}", homes=f"{tmp_path}/home")
    for fine in ("home/ann/models", "disk/bob"):
        refuse_source(f"{tmp_path}/{fine}", homes=f"{tmp_path}/home")


def test_a_folder_is_judged_again_at_the_start(tmp_path: Path) -> None:
    """A folder that became a link after the definition was checked leads nowhere."""
    place = tmp_path / "models"
    place.mkdir()
    assert refuse_source(str(place)) == place
    place.rmdir()
    place.symlink_to("/etc")
    with pytest.raises(ValueError, match="SEC-D9"):
        refuse_source(str(place))


def test_a_link_where_this_user_may_not_look_is_refused() -> None:
    """It would not be resolved here, but by the engine, which is root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        hidden = Path(folder, "hidden")
        hidden.mkdir(mode=0o700)
        (hidden / "link").symlink_to("/etc")
        hidden.chmod(0o000)
        asked = as_nobody(lambda: refuse_source(f"{hidden}/link"))
        hidden.chmod(0o700)
    assert "SEC-D9" in asked, asked


def as_nobody(ask: Callable[[], object]) -> str:
    """What `ask` fails with for a user without rights; root asks in a child of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, f"passed: {ask()}".encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def test_a_model_where_this_user_may_not_look_is_refused_in_words() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        hidden = Path(folder, "hidden")
        hidden.mkdir(mode=0o700)
        home = Path(folder, "home")
        service = Service(
            id="svc", driver="fastapi", port=7850, model_path=f"{hidden}/sub/a.gguf",
            unit_vars={"command": "serve", "container": {"image": "a"}},
        )  # fmt: skip
        supervisor = DockerSupervisor(home, "0123456789ab", Settings(), SystemClock())
        hidden.chmod(0o000)
        asked = as_nobody(lambda: supervisor.check_service(service, Settings(models_dir=f"{hidden}/models")))
        hidden.chmod(0o700)
    assert asked.startswith("ValueError: service 'svc': "), asked
    assert "SEC-D9" in asked


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights that the home's owner has not")
def test_root_mounts_nothing_that_another_users_home_says(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a", "volumes": ["/srv:/srv"]})
    supervisor = DockerSupervisor(tmp_path, "0123456789ab", Settings(), SystemClock())
    launch = supervisor.launch(DockerDriver(), service, Allocation(), Settings())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    with pytest.raises(MachineLacks) as refused:
        supervisor.draft(handle, launch, {})
    assert refused.value.code == "anothers-home"
