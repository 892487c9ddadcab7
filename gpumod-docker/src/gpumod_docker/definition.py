"""The whole definition of a container, as the engine is given it. Pure: the same service gives the same text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpumod.api import Launch, Settings, UsageError
from gpumod_docker.mounts import Volume
from gpumod_docker.options import ContainerOptions
from gpumod_docker.ports import LOOPBACK, PublishedPort

OF_THE_IMAGE = "{image}"
"""As the first word of a launch: what the image itself runs. The rest are its arguments; none are its own."""
HOME, SERVICE, NONCE, DEFINITION = "gpumod.home", "gpumod.service", "gpumod.nonce", "gpumod.definition"
"""Labels: whose a container is, the run that made it, and the hash of its whole definition."""
SECURITY = ["no-new-privileges:true"]
GPU = [["gpu"]]
NO_GPUS = "NVIDIA_VISIBLE_DEVICES=void"
"""An image may ask for all GPUs, which a default runtime of NVIDIA's would give it."""
MIB = 1024 * 1024
Config = dict[str, Any]


class Wanted(NamedTuple):
    """What a container is made of. `told` are the variables that the engine of gpumod gives every service."""

    service: str
    launch: Launch
    options: ContainerOptions
    volumes: tuple[Volume, ...]
    ports: tuple[PublishedPort, ...]
    own_port: int | None
    told: Mapping[str, str]


def name_of(service: str, home_id: str) -> str:
    return f"gpumod-{service}.{home_id}"


def filled(text: str, folder: Path) -> str:
    """`text` with `{service_dir}` replaced: the service's folder is at the same path in its container."""
    return text.replace("{service_dir}", str(folder))


def uses_folder(launch: Launch, told: Mapping[str, str]) -> bool:
    texts = [*launch.argv, *launch.env.values(), *told.values(), str(launch.cwd or "")]
    return bool(launch.files) or any("{service_dir}" in text for text in texts)


def check_words(wanted: Wanted) -> None:
    """Raise UsageError `bad-launch` for what no process can be given."""
    launch = wanted.launch
    if not launch.argv or not launch.argv[0]:
        raise UsageError("bad-launch", f"service {wanted.service} names no program to start")
    variables = {**launch.env, **wanted.told}
    words = [*launch.argv, *variables, *variables.values()]
    if any("\0" in word for word in words) or any(not name or "=" in name for name in variables):
        raise UsageError(
            "bad-launch",
            f"service {wanted.service} cannot be started with these arguments or variables",
            why="there is a zero character in them, or a variable without a proper name",
        )


def config_of(wanted: Wanted, folder: Path, settings: Settings, cdi: bool) -> Config:
    """The body of the engine's request, without labels. `cdi`: GPUs are given by CDI, not by NVIDIA's own runtime."""
    launch, options = wanted.launch, wanted.options
    gpus = gpus_of(wanted.told)
    variables = {**launch.env, **options.environment, **wanted.told, **_numbered(launch, gpus)}
    own = Volume(str(folder), str(folder)) if uses_folder(launch, wanted.told) else None
    argv = [filled(word, folder) for word in launch.argv]
    of_image = argv[0] == OF_THE_IMAGE
    config: Config = {
        "Image": options.image,
        "Cmd": argv[1:] or None,
        "Env": [
            *(f"{name}={filled(value, folder)}" for name, value in sorted(variables.items())),
            *([NO_GPUS] if cdi or not gpus else []),
        ],
        "StopSignal": launch.stop_signal,
        "StopTimeout": max(1, round(launch.stop_timeout_s)),
        "ExposedPorts": {f"{port.container}/tcp": {} for port in wanted.ports},
        "HostConfig": _host_config(wanted, own, settings, _gpu_requests(gpus, cdi=cdi)),
    }
    if not of_image:
        config["Entrypoint"], config["Cmd"] = argv[:1], argv[1:]
    # Without a word it is the image's own; a service that has files is at home beside them, whoever keeps it. What is
    # said of the container goes before what its driver knows of this machine.
    if workdir := options.workdir or launch.cwd or (folder if own else None):
        config["WorkingDir"] = filled(str(workdir), folder)
    if options.user:
        config["User"] = options.user
    return config


def _host_config(wanted: Wanted, own: Volume | None, settings: Settings, gpus: Sequence[Config]) -> Config:
    options = wanted.options
    host: Config = {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": SECURITY,
        "NetworkMode": "bridge",
        "IpcMode": "private",
        "CgroupnsMode": "private",  # without a word it is this machine's own where control groups are of version 1
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "PublishAllPorts": False,
        "PortBindings": {
            f"{port.container}/tcp": [{"HostIp": _address(wanted, port, settings), "HostPort": str(port.host)}]
            for port in wanted.ports
        },
        "Mounts": [_mount(volume) for volume in (*wanted.volumes, *([own] if own else []))],
        "ReadonlyRootfs": options.read_only,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": f"{settings.log_max_mb}m", "max-file": "3"}},
    }
    if options.shm_size_mb:
        host["ShmSize"] = options.shm_size_mb * MIB
    if options.memory_mb:
        host["Memory"] = options.memory_mb * MIB
    if options.lock_memory:
        host["Ulimits"] = [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    if gpus:
        host["DeviceRequests"] = list(gpus)
    return host


def _address(wanted: Wanted, port: PublishedPort, settings: Settings) -> str:
    """Where a port is published: the service's own one where services bind, all others on this machine alone."""
    return settings.bind_host if port.host == wanted.own_port else LOOPBACK


def _mount(volume: Volume) -> Config:
    mount: Config = {"Target": volume.target, "Source": volume.source, "ReadOnly": not volume.writable}
    if volume.is_named:
        return {"Type": "volume", **mount}
    return {"Type": "bind", **mount, "BindOptions": {"Propagation": "rprivate"}}


def gpus_of(told: Mapping[str, str]) -> tuple[str, ...]:
    """The real GPUs that the service is to see, by UUID: a simulated machine numbers its own."""
    named = told.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(gpu for gpu in named if gpu.startswith(("GPU-", "MIG-")))


def _numbered(launch: Launch, gpus: Sequence[str]) -> dict[str, str]:
    """A container has no other GPUs than these, so that in there they are the first ones, a MIG instance too."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(len(gpus))))} if launch.gpus_by_number and gpus else {}


def given_by_cdi(access: str, gpus: Sequence[str], info: Mapping[str, Any]) -> bool:
    """Whether GPUs are asked for by CDI: as the service says, else where the engine has found just these that way."""
    if access != "auto":
        return access == "cdi"
    found = {str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()}
    return bool(gpus) and found.issuperset(map(_cdi_name, gpus))


def _cdi_name(gpu: str) -> str:
    return f"nvidia.com/gpu={gpu}"


def _gpu_requests(gpus: Sequence[str], *, cdi: bool) -> list[Config]:
    if not gpus:
        return []
    if cdi:
        return [{"Driver": "cdi", "DeviceIDs": [_cdi_name(gpu) for gpu in gpus]}]
    return [{"DeviceIDs": list(gpus), "Capabilities": GPU}]


def definition_hash(config: Config, image_id: str) -> str:
    """What tells two definitions apart: all that the engine is given, and the image that its name now means."""
    text = json.dumps([config, image_id], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
