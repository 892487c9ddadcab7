"""The gate: whatever made a request, the engine is given no more than is known there (SEC-D7 to SEC-D10)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.api import Allocation, Failed, Handle, Service, Settings, UsageError
from gpumod_docker.containers import refuse_engines_own
from gpumod_docker.driver import DockerDriver
from gpumod_docker.gate import refuse_unsafe
from gpumod_docker.supervisor import DockerSupervisor


def request(**host: Any) -> dict[str, Any]:
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a", "volumes": ["/srv:/x"]})
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    launch = supervisor.launch(DockerDriver(), service, Allocation(), Settings())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    config = copy.deepcopy(supervisor.draft(handle, launch, {"CUDA_VISIBLE_DEVICES": "GPU-1"}))
    config["HostConfig"].update(host)
    return config


def passes(config: dict[str, Any], bind_host: str = "127.0.0.1") -> None:
    refuse_unsafe("svc", config, Path("/nowhere/services/svc"), [], bind_host)


BIND = {"Type": "bind", "Source": "/srv", "Target": "/x", "ReadOnly": True, "BindOptions": {"Propagation": "rprivate"}}
OPEN = [{"HostIp": "0.0.0.0", "HostPort": "7850"}]


def test_the_gate_lets_pass_what_is_made_here() -> None:
    passes(request())
    passes(request(PortBindings={"8000/tcp": OPEN}), bind_host="0.0.0.0")


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True}, {"Privileged": 0}, {"CapAdd": ["SYS_ADMIN"]}, {"CapDrop": []}, {"CapDrop": ["CHOWN"]},
        {"SecurityOpt": []}, {"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}, {"Devices": [{}]},
        {"DeviceCgroupRules": ["a *:* rwm"]}, {"NetworkMode": "host"}, {"NetworkMode": "container:x"},
        {"NetworkMode": "lan"}, {"PidMode": "host"}, {"IpcMode": "host"}, {"IpcMode": "container:x"},
        {"IpcMode": "shareable"}, {"UTSMode": "host"}, {"UsernsMode": "host"}, {"CgroupnsMode": "host"},
        {"CgroupParent": "/"}, {"Runtime": "other"}, {"Sysctls": {}}, {"OomKillDisable": True}, {"GroupAdd": ["0"]},
        {"Binds": ["/:/x"]}, {"VolumesFrom": ["x"]}, {"Tmpfs": {"/etc": ""}}, {"Links": ["x"]}, {"ExtraHosts": ["x:1"]},
        {"PublishAllPorts": True}, {"PortBindings": {"8000/tcp": OPEN}}, {"MaskedPaths": []}, {"ReadonlyPaths": []},
        {"PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": "7850"}]}}, {"AutoRemove": True}, {"Init": False},
        {"RestartPolicy": {"Name": "always"}}, {"LogConfig": {"Type": "syslog"}}, {"Ulimits": [{"Name": "nproc"}]},
        {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]}, {"DeviceRequests": [{"Driver": "cdi"}]},
        {"DeviceRequests": [{"DeviceIDs": ["all"], "Capabilities": [["gpu"]]}]},
        {"DeviceRequests": [{"DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]},
        {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]},
        {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "vendor.com/disk=sda"]}]},
        {"DeviceRequests": [{"DeviceIDs": ["nvidia.com/gpu=GPU-1"], "Capabilities": [["gpu"]]}]},
        {"DeviceRequests": [{"DeviceIDs": ["GPU-1"], "Capabilities": [["gpu", "display"]]}]},
        {"DeviceRequests": [{"DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]], "Options": {"x": "y"}}]},
        {"DeviceRequests": [{"Driver": "tpu", "DeviceIDs": ["GPU-1"]}]},
        {"Mounts": [{**BIND, "Source": "/etc"}]}, {"Mounts": [{**BIND, "BindOptions": {"Propagation": "rshared"}}]},
        {"Mounts": [{"Type": "tmpfs", "Target": "/x"}]}, {"Mounts": [{**BIND, "Type": "npipe"}]},
        {"Mounts": [{"Type": "volume", "Source": "/etc", "Target": "/x", "ReadOnly": True}]},
        {"Mounts": [{"Type": "volume", "Source": "a", "Target": "/x", "VolumeOptions": {"DriverConfig": {}}}]},
        {"Mounts": [{**BIND, "Source": "/nowhere/services/svc", "ReadOnly": False, "BindOptions": {}}]},
        {"Annotations": {}}, {"CgroupnsMode": ""},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_the_gate_refuses_a_request_with_more(host: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        passes(request(**host))
    assert caught.value.code == "unsafe-container"


@pytest.mark.parametrize("word", ["NVIDIA_VISIBLE_DEVICES=all", "LD_PRELOAD=/x", "NVIDIA_DISABLE_REQUIRE=1", "ld_x=1"])
def test_the_gate_refuses_variables_that_runtimes_act_on(word: str) -> None:
    config = request()
    passes(config | {"Env": [*config["Env"], "A=1"]})
    with pytest.raises(UsageError) as caught:
        passes(config | {"Env": [*config["Env"], word]})
    assert "SEC-D10" in caught.value.info.why


def test_the_gate_lets_no_image_have_what_it_asks_for() -> None:
    """Where no GPUs are asked for by name, NVIDIA's runtime is told that there are none."""
    config = request()
    del config["HostConfig"]["DeviceRequests"]
    with pytest.raises(UsageError, match="as it is defined"):
        passes(config)
    passes(config | {"Env": ["NVIDIA_VISIBLE_DEVICES=void"]})


@pytest.mark.parametrize("more", [{"NetworkingConfig": {}}, {"Healthcheck": {}}, {"Volumes": {}}, {"Hostname": "x"}])
def test_the_gate_refuses_more_beside_it(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        passes(request() | more)


def test_an_image_that_asks_for_all_gpus_gets_none() -> None:
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a"})
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    launch = supervisor.launch(DockerDriver(), service, Allocation(), Settings())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    for told, requests in (("", None), ("0", None), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])):
        config = supervisor.draft(handle, launch, {"CUDA_VISIBLE_DEVICES": told})
        given = config["HostConfig"].get("DeviceRequests")
        assert (given[0]["DeviceIDs"] if given else None) == requests
        assert ("NVIDIA_VISIBLE_DEVICES=void" in config["Env"]) == (requests is None)


def test_a_program_that_takes_gpus_by_number_counts_those_of_its_container() -> None:
    """The engine is asked for them by UUID all the same."""
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a"})
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    launch = supervisor.launch(DockerDriver(), service, Allocation(), Settings())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    for told, inside in (("GPU-a,GPU-b", "0,1"), ("MIG-a", "0"), ("", ""), ("1", "1")):
        env = {"CUDA_VISIBLE_DEVICES": told}
        named = supervisor.draft(handle, launch, env)
        numbered = supervisor.draft(handle, launch.model_copy(update={"gpus_by_number": True}), env)
        assert f"CUDA_VISIBLE_DEVICES={told}" in named["Env"]
        assert f"CUDA_VISIBLE_DEVICES={inside}" in numbered["Env"]
        assert numbered["HostConfig"].get("DeviceRequests") == named["HostConfig"].get("DeviceRequests")


def test_what_the_engine_keeps_is_not_mounted_wherever_it_is(tmp_path: Path) -> None:
    """Its data is often moved to the disk that models are on."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "docker")
    for root in (tmp_path / "docker", tmp_path / "link"):
        for source in (tmp_path, tmp_path / "docker", tmp_path / "docker/volumes/theirs"):
            config = request(Mounts=[{**BIND, "Source": str(source)}])
            with pytest.raises(Failed) as caught:
                refuse_engines_own("svc", config, {"DockerRootDir": str(root)})
            assert (caught.value.code, "SEC-D9" in caught.value.info.why) == ("unsafe-volume", True)
    config = request(Mounts=[{**BIND, "Source": f"{tmp_path}/models"}, {"Type": "volume", "Source": "a"}])
    refuse_engines_own("svc", config, {"DockerRootDir": f"{tmp_path}/docker"})
