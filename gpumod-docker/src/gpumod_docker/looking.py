"""Containers that others made, as the engine tells of them: read, never touched. Blocking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.api import CommandLine, ContainerFacts
from gpumod_docker.definition import HOME
from gpumod_docker.engine import spoken
from gpumod_docker.pids import tree_of
from gpumod_docker.states import Inspected, is_up, top_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
"""A container's name, or its id, or the beginning of that: nothing else is sent to the engine."""
PROJECT = "com.docker.compose.project"
LOOPBACK = ("", "0.0.0.0", "127.0.0.1")  # noqa: S104 - compared with, not bound to
"""Addresses of this machine behind which a port is reached at 127.0.0.1. Those of IPv6 alone are none of them."""
_CDI = "nvidia.com/gpu="


def inspect(path: Path, container: str) -> Inspected | None:
    """What the engine behind the socket `path` tells of a container, by name or id; None where it has none such.

    Raises MachineLacks and Failed.
    """
    import docker.errors  # noqa: PLC0415  # slow, and only needed to speak with an engine

    if not NAME.fullmatch(container):
        return None
    with spoken(path, f"look up the container {container}") as asked:
        try:
            seen: Inspected = asked.inspect_container(container)
        except docker.errors.NotFound:
            return None
    return seen


def all_up(path: Path) -> Iterator[Inspected]:
    """Every container that is up, whoever made it."""
    with spoken(path, "list containers") as asked:
        rows: Sequence[Mapping[str, Any]] = asked.containers()
    for row in rows:
        if (seen := inspect(path, str(row["Id"]))) is not None and is_up(seen):
            yield seen


def facts_of(seen: Inspected, path: Path) -> ContainerFacts:
    """What the engine behind the socket `path` has `seen` of a container."""
    config, host = seen.get("Config") or {}, seen.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    env = _pairs(config.get("Env") or ())
    tree = tree_of(top_of(seen)) if is_up(seen) else None
    return ContainerFacts(
        id=str(seen["Id"]),
        name=str(seen["Name"]).lstrip("/"),
        command=CommandLine(
            argv=(str(seen["Path"]), *map(str, seen.get("Args") or ())), env=env, cwd=config.get("WorkingDir") or ""
        ),
        main_pid=tree.main if tree else None,
        pids=tree.pids if tree else (),
        published=published(seen),
        shares_network=host.get("NetworkMode") == "host",
        mounts={str(m["Destination"]): str(m["Source"]) for m in seen.get("Mounts") or () if m.get("Source")},
        gpus=_gpus(host, env),
        project=str(labels.get(PROJECT, "")),
        own=HOME in labels,
        passing=bool(host.get("AutoRemove")),
        engine=str(path.absolute()),
    )


def published(seen: Inspected) -> dict[int, int]:
    """By its TCP ports those of this machine that lead there. One that the engine picks anew at each start is none."""
    bindings = (seen.get("HostConfig") or {}).get("PortBindings") or {}
    found: dict[int, int] = {}
    for place, some in bindings.items():
        inner, _, kind = str(place).partition("/")
        for one in some or ():
            outer = str(one.get("HostPort") or "")
            fixed = inner.isdigit() and outer.isdigit() and 0 < int(outer) < 65536
            if fixed and kind in ("", "tcp") and str(one.get("HostIp") or "") in LOOPBACK:
                found.setdefault(int(inner), int(outer))
    return found


def _gpus(host: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that it was given by name, whichever way; empty for all, and where it says nothing."""
    asked = [str(one) for request in host.get("DeviceRequests") or () for one in request.get("DeviceIDs") or ()]
    if not asked and host.get("Runtime") == "nvidia":
        asked = env.get("NVIDIA_VISIBLE_DEVICES", "").split(",")
    names = tuple(one.strip().removeprefix(_CDI) for one in asked)
    return names if all(re.fullmatch(r"\d+|(GPU|MIG)-[A-Za-z0-9/-]+", one) for one in names) else ()


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = (str(word).partition("=") for word in words)
    return {name: value for name, equals, value in pairs if equals}
