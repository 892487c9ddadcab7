"""Processes that gpumod did not start, as /proc tells of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gpumod.adapters.containers import container_of
from gpumod.adapters.foreign.processes import identity_of
from gpumod.adapters.process.proc import parent, trees
from gpumod.domain.adopted import MANAGERS, UNIT_PATTERN, Manager
from gpumod.ports.commands import CommandLine
from gpumod.ports.foreign import ProcessFacts


def process(pid: int) -> ProcessFacts | None:
    """None for one that is gone, a zombie, or a thread of the kernel."""
    identity = identity_of(pid)
    command = command_of(pid)
    if identity is None or not command.argv:
        return None
    container = None
    with contextlib.suppress(OSError):  # it ended just now
        container = container_of(pid)
    return ProcessFacts(
        pid=pid, identity=identity, command=command, pids=(pid, *trees([pid])[pid]), container=container
    )


def command_of(pid: int) -> CommandLine:
    """Its words; its variables and folder where we may read them (else there are none)."""
    cwd = ""
    with contextlib.suppress(OSError):
        cwd = str(Path(f"/proc/{pid}/cwd").readlink())
    pairs = (text.partition("=") for text in _strings(pid, "environ"))
    return CommandLine(
        argv=_strings(pid, "cmdline"), env={name: value for name, equals, value in pairs if equals}, cwd=cwd
    )


def _strings(pid: int, name: str) -> tuple[str, ...]:
    try:
        data = Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return ()
    text = data.decode("utf-8", "replace")
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def chain(pid: int) -> tuple[ProcessFacts, ...]:
    """It and its ancestors, the nearest first, without process 1."""
    found: list[ProcessFacts] = []
    at: int | None = pid
    while at is not None and at > 1 and len(found) < 64:
        if (here := process(at)) is not None:
            found.append(here)
        at = parent(at)
    return tuple(found)


def unit_of(pid: int) -> tuple[Manager, str] | None:
    """The service unit whose control group it is in, of the system's manager or our own."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    ours = f"user@{os.geteuid()}.service"
    for line in lines:  # where both hierarchies are there, systemd may use either
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = path.split("/")
        known = number == "0" or controllers == "name=systemd"
        if not known or not re.fullmatch(UNIT_PATTERN[1:-1], parts[-1]) or parts[-1].startswith(MANAGERS):
            continue
        if not any(part.startswith(MANAGERS) for part in parts):
            return "system", parts[-1]
        return ("user", parts[-1]) if ours in parts else None
    return None


def listening(pids: Collection[int]) -> Mapping[int, Sequence[int]]:
    """The TCP ports on which those of `pids` listen, as far as the kernel tells us."""
    import psutil  # noqa: PLC0415 - slow, and seldom needed

    found: dict[int, set[int]] = {}
    with contextlib.suppress(psutil.Error, OSError):
        for row in psutil.net_connections("tcp"):
            if row.status == psutil.CONN_LISTEN and row.pid in pids and row.pid is not None and row.laddr:
                found.setdefault(row.pid, set()).add(row.laddr.port)
    return {pid: sorted(ports) for pid, ports in found.items()}
