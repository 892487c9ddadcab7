"""Containers are known by the names of their control groups, as engines and systemd write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumod.adapters.containers import container_in, container_of

ID = "0123456789ab" + "c" * 52
SHORT = ID[:12]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"/system.slice/docker-{ID}.scope", f"docker container {SHORT}"),
        (f"/docker/{ID}", f"docker container {SHORT}"),
        (f"/docker/{ID}/init.scope", f"docker container {SHORT}"),
        (f"/docker/{'f' * 64}/docker/{ID}", f"docker container {SHORT}"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"podman container {SHORT}"),
        (f"/system.slice/ollama.service/libpod-payload-{ID}", f"podman container {SHORT}"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", f"containerd container {SHORT}"),
        (f"/kubepods/besteffort/pod1f2e3d4c-0000-0000-0000-000000000000/{ID}", f"container {SHORT}"),
        (f"/user.slice/user-1000.slice/nerdctl-{ID}.scope", f"nerdctl container {SHORT}"),
        ("/lxc.payload.gpu-box/system.slice/ollama.service", "lxc container gpu-box"),
        ("/lxc/101/ns/system.slice/ollama.service", "lxc container 101"),
    ],
)
def test_containers_of_many_engines(path: str, told: str) -> None:
    assert str(container_in(f"12:devices:/\n0::{path}\n")) == told


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/system.slice/docker.service",
        "/system.slice/ollama.service",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        "/lxc.monitor.gpu-box",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-compose.service",
    ],
)
def test_what_keeps_containers_is_in_none(path: str) -> None:
    assert container_in(f"0::{path}\n") is None


def test_a_process_of_ours_is_not_in_another_container(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(Path("/proc/self/cgroup").read_text())
    assert container_of(7, tmp_path) is None
    (tmp_path / "7" / "cgroup").write_text(f"0::/docker/{ID}\n")
    assert str(container_of(7, tmp_path)) == f"docker container {SHORT}"
    with pytest.raises(FileNotFoundError):
        container_of(8, tmp_path)
