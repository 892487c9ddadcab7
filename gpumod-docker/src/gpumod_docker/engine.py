"""The container engine: where its socket is, a client for each thread, and its errors in words of ours."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpumod.api import Failed, GpumodError, MachineLacks

if TYPE_CHECKING:
    from docker import APIClient

VARIABLE = "DOCKER_HOST"
SCHEME = "unix://"
USUAL = "/var/run/docker.sock"
DESKTOP = "Docker Desktop"
"""What such an engine calls its operating system."""
QUICK_S, SLOW_S = 10, 180
"""How long an engine may take for an answer, and for what it has to do something for (disks, GPUs)."""
_REACH_S = 5.0
_NONSENSE = (ValueError, KeyError, TypeError)
"""How the SDK fails with a refusal that is none of an engine's (a proxy's, say)."""
_idle: dict[Path, list[APIClient]] = {}
"""Clients that nobody uses just now, by socket. Taking one, and giving it back, is one step for every thread."""


def socket_path() -> Path:
    """The engine's socket: DOCKER_HOST, else the first that is there of the system's and the user's own.

    Raises MachineLacks `remote-engine` for an engine that is not on this machine: its GPUs are not ours to plan.
    """
    told = os.environ.get(VARIABLE, "")
    if told and not told.startswith(SCHEME):
        raise MachineLacks(
            "remote-engine",
            f"the container engine at {told!r:.80} is not used",
            why="gpumod plans the GPUs of this machine, and only an engine behind a unix socket is surely on it",
            hint=f"unset {VARIABLE}, or set it to unix:///path/of/docker.sock",
        )
    if told:
        return Path(told.removeprefix(SCHEME))
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    places = [Path(USUAL), *([Path(own, "docker.sock"), Path(own, "podman/podman.sock")] if own else [])]
    # Path.exists raises where this user may not look: in a session's folder that su has left in the variable
    return next((place for place in places if os.path.exists(place)), places[0])  # noqa: PTH110 - what cannot be looked at is none


def refuse_elsewhere(info: Mapping[str, Any]) -> None:
    """Raise MachineLacks `remote-engine` for one that runs in a machine of its own behind a socket of this one."""
    if str(info.get("OperatingSystem")) == DESKTOP:
        raise MachineLacks(
            "remote-engine",
            f"the container engine of {DESKTOP} is not used",
            why="it runs in a virtual machine: its processes and their memory cannot be found on this one",
            hint=f"install Docker Engine here, and say where its socket is: {VARIABLE}=unix:///PATH",
        )


def reach(path: Path) -> None:
    """Raise MachineLacks `no-engine` or `no-engine-rights` where nobody listens at the socket, or not to this user."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_REACH_S)
            probe.connect(str(path))
    except OSError as error:
        raise _away(path, error) from error


def _away(path: Path, error: OSError) -> MachineLacks:
    if isinstance(error, PermissionError):
        return MachineLacks(
            "no-engine-rights",
            f"you may not use the container engine at {path}",
            why=f"{error.strerror}: its socket belongs to {_owner(path)}",
            hint="join that group and log in again (it is as good as root), or run a rootless engine of your own",
        )
    there = "nothing listens at its socket" if path.exists() else f"there is no {path}"
    return MachineLacks(
        "no-engine",
        "no container engine answers on this machine",
        why=f"{there} ({error.strerror or error})",
        hint=f"install and start one (systemctl start docker), or say where its socket is: {VARIABLE}=unix:///PATH",
    )


def _owner(path: Path) -> str:
    try:
        status = path.stat()
        return f"{path.owner()}, group {path.group()}, mode {stat.S_IMODE(status.st_mode):o}"
    except (OSError, KeyError):
        return "somebody else"


def _client(path: Path) -> APIClient:
    """A new client. Raises MachineLacks where nobody answers."""
    import docker  # noqa: PLC0415  # slow, and only needed to speak with an engine
    import docker.errors  # noqa: PLC0415 - only who speaks to an engine pays for the import

    try:
        return docker.APIClient(base_url=f"{SCHEME}{path}", version="auto", timeout=QUICK_S)
    except docker.errors.DockerException as error:
        raise MachineLacks(
            "no-engine",
            f"what listens at {path} does not answer as a container engine",
            why=str(error)[:300],
            hint="is it a Docker Engine of version 20.10 or later? `docker version` tells",
        ) from error


@contextlib.contextmanager
def spoken(path: Path, doing: str, timeout_s: int = QUICK_S) -> Iterator[APIClient]:
    """A client for this block alone: the SDK's are not made to be shared, and are used again by the next block.

    What an engine or its connection fails with inside becomes an error of ours.
    """
    import docker.errors  # noqa: PLC0415  # as above
    import requests  # noqa: PLC0415 - only who speaks to an engine pays for the import

    reach(path)  # told in our words, and the SDK leaks a socket where it cannot connect
    idle = _idle.setdefault(path, [])
    try:
        asked = idle.pop()
    except IndexError:
        asked = _client(path)
    asked.timeout = timeout_s
    try:
        yield asked
    except GpumodError:
        idle.append(asked)
        raise
    except docker.errors.APIError as error:
        idle.append(asked)
        raise Failed(
            "engine-refused",
            f"the container engine refused to {doing}",
            why=said(error),
            hint="its own log tells more: journalctl -u docker",
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, *_NONSENSE) as error:
        asked.close()
        reach(path)
        raise Failed(
            "engine-failed",
            f"the container engine at {path} did not {doing}",
            why=f"{type(error).__name__}: {error}"[:300],
            hint="`docker info` tells whether it is well; its log: journalctl -u docker",
        ) from error
    else:
        idle.append(asked)


def said(error: Any) -> str:
    """What the engine says of a refusal."""
    return str(error.explanation or error).strip()[:500]
