"""The last look at what the engine is about to be given: what is not known to be harmless is refused.

The options of a service are checked when they are read. This gate does not trust that: it sees the finished request,
whoever made it, and lets pass what is in this list alone (SEC-D7 to SEC-D10).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.api import MachineLacks, UsageError
from gpumod_docker.definition import GPU, NO_GPUS, SECURITY
from gpumod_docker.environment import GIVEN, refuse_names
from gpumod_docker.mounts import refuse_source
from gpumod_docker.ports import LOOPBACK

OUTSIDE = frozenset({
    "Image", "Cmd", "Entrypoint", "Env", "WorkingDir", "User", "Labels", "StopSignal", "StopTimeout", "ExposedPorts",
    "HostConfig",
})  # fmt: skip
EXACTLY: Mapping[str, Any] = {
    "Privileged": False,
    "CapDrop": ["ALL"],
    "SecurityOpt": SECURITY,
    "NetworkMode": "bridge",
    "IpcMode": "private",
    "CgroupnsMode": "private",
    "Init": True,
    "AutoRemove": False,
    "RestartPolicy": {"Name": "no"},
    "PublishAllPorts": False,
}
CHECKED = frozenset({
    "PortBindings", "Mounts", "ReadonlyRootfs", "LogConfig", "ShmSize", "Memory", "Ulimits", "DeviceRequests",
})  # fmt: skip

_BY_NVIDIA = re.compile(r"(GPU|MIG)-[A-Za-z0-9/-]+")
_BY_CDI = re.compile(rf"nvidia\.com/gpu={_BY_NVIDIA.pattern}")


def another_owner(home: Path) -> int | None:
    """The user id of whoever else than root says what is at `home`, where root is at work; else None.

    That is the first owner on the way who is not root: what lies in a folder of that user's can change at any time.
    """
    real = home.resolve()  # a link of root's may lead to that user
    for place in reversed((real, *real.parents, home, *home.parents)) if os.geteuid() == 0 else ():
        with contextlib.suppress(OSError):
            if (owner := place.lstat().st_uid) != 0:
                return owner
    return None


def refuse_anothers(home: Path, service: str, *, stop: bool = False) -> None:
    """Raise MachineLacks `anothers-home` where root would mount, with its own rights, what another user's home says; or
    end (`stop`) the container that it names."""
    if (owner := another_owner(home)) is None:
        return
    raise MachineLacks(
        "anothers-home",
        f"the container of service {service} is not stopped by root: its home is of user {owner}"
        if stop
        else f"service {service} is not started: its folders would be mounted by root, and its home is of user {owner}",
        why=f"user {owner} says in {home} which "
        + ("containers are its own" if stop else "folders of this machine a container gets"),
        hint="run gpumod as that user, who may ask the engine when in the group docker",
    )


def refuse_unsafe(
    service: str, config: Mapping[str, Any], own_folder: Path, keep_out: Sequence[Path], bind_host: str
) -> None:
    """Raise UsageError `unsafe-container` for a request that holds more than containers get."""
    try:
        _check(config, own_folder, keep_out, bind_host)
    except ValueError as error:
        raise UsageError(
            "unsafe-container",
            f"service {service} is not started in a container as it is defined",
            why=str(error),
            hint=f"gpumod service edit {service}; see the table of options in the README of gpumod-docker",
        ) from error


def _check(config: Mapping[str, Any], own_folder: Path, keep_out: Sequence[Path], bind_host: str) -> None:
    host = config.get("HostConfig", {})
    for name in (*(config.keys() - OUTSIDE), *(host.keys() - EXACTLY.keys() - CHECKED)):
        raise ValueError(f"{name} is nothing that a container of gpumod's is given")
    for name, value in EXACTLY.items():
        if host.get(name) != value or type(host.get(name)) is not type(value):
            raise ValueError(f"{name} must be {value!r}, not {host.get(name)!r:.80} (SEC-D7, SEC-D8)")
    for bindings in host.get("PortBindings", {}).values():
        for binding in bindings:
            if binding["HostIp"] not in (LOOPBACK, bind_host):
                raise ValueError(f"a port would be published at {binding['HostIp']!r} (SEC-D8)")
    for mount in host.get("Mounts", ()):
        _check_mount(mount, own_folder, keep_out)
    _check_variables(config.get("Env", ()), by_name=bool(host.get("DeviceRequests")))
    _check_resources(host)


def _check_variables(words: Sequence[str], *, by_name: bool) -> None:
    """`by_name`: GPUs are asked for by name; else an image is kept from asking for them itself."""
    refuse_names({word.partition("=")[0] for word in words if word != NO_GPUS} - GIVEN)
    if not by_name and NO_GPUS not in words:
        raise ValueError("its image could ask for all GPUs")


def _check_resources(host: Mapping[str, Any]) -> None:
    for request in host.get("DeviceRequests", ()):
        named = _BY_CDI if request.get("Driver") == "cdi" else _BY_NVIDIA
        more = request.keys() - {"Driver", "DeviceIDs", "Capabilities"} or request.get("Driver") not in (None, "cdi")
        ids = request.get("DeviceIDs") or [""]
        if more or request.get("Capabilities", GPU) != GPU or not all(named.fullmatch(one) for one in ids):
            raise ValueError("GPUs are given by name, never all of them, and nothing else in that way")
    if host.get("LogConfig", {}).get("Type") != "json-file":
        raise ValueError("its log is kept by the engine, in files")
    if any(limit.get("Name") != "memlock" for limit in host.get("Ulimits", ())):
        raise ValueError("of the limits only that of locked memory is lifted")


def _check_mount(mount: Mapping[str, Any], own_folder: Path, keep_out: Sequence[Path]) -> None:
    kind, source = mount.get("Type"), str(mount.get("Source", ""))
    known = {"Type", "Source", "Target", "ReadOnly", "BindOptions"}
    if kind not in ("bind", "volume") or mount.keys() - known:
        raise ValueError(f"a mount of this kind is not made: {dict(mount)!r:.120} (SEC-D9)")
    if kind == "volume":
        if "/" in source or not source or "BindOptions" in mount:
            raise ValueError(f"{source!r} is no name of a volume (SEC-D9)")
        return
    if mount.get("BindOptions") != {"Propagation": "rprivate"}:
        raise ValueError(f"{source} would share its mounts with this machine (SEC-D9)")
    if Path(source) == own_folder and mount.get("ReadOnly") is True:
        return
    if str(refuse_source(source, keep_out)) != source:
        raise ValueError(f"{source} is a link: it may lead elsewhere when the engine looks at it (SEC-D9)")
