"""Who keeps servers from listening on ports."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gpumod.adapters.process.proc import start_ticks
from gpumod.adapters.process.whose import owner_of
from gpumod.domain.base import has_control_characters
from gpumod.domain.machine import PortUser

if TYPE_CHECKING:

    class _Connection(Protocol):
        """A row of psutil's table."""

        @property
        def status(self) -> str: ...
        @property
        def pid(self) -> int | None: ...


ANOTHER_LOOPBACK = "127.255.255.254"  # nobody serves there, so no connection lingers there
NOT_LISTENING = PortUser(name="a process that has bound it but does not listen yet")
LINGERING = PortUser(name="connections of a server that just ended (they linger for up to a minute)")
OF_ANOTHER_USER = PortUser(name="a process of another user")
CLOSED = frozenset({"TIME_WAIT", "FIN_WAIT1", "FIN_WAIT2", "LAST_ACK", "CLOSING"})
"""States of connections that outlive their process."""


def port_users(ports: Collection[int], host: str = "127.0.0.1") -> dict[int, PortUser]:
    """Who keeps a server from listening on `host` at each of `ports` (TCP); those that are free are left out.

    A listener on all addresses keeps a port too, and so does a process that has bound it and does not listen yet, as
    a vLLM that loads its model. Connections that linger after a server's end count only where they keep a server from
    binding, which they do when the one that ended had not set SO_REUSEADDR.
    """
    suspects = [port for port in ports if _bind_error(host, port, reuse=False) is not None]
    table = _table(suspects) if suspects else None
    users = {port: _user(port, host, None if table is None else table[port]) for port in suspects}
    return {port: user for port, user in users.items() if user is not None}


def stranger_on(port: int, pids: Collection[int]) -> PortUser | None:
    """Who listens at `port` (TCP) in the place of a service whose processes are `pids`; None where nobody surely does.

    It is none of `pids` and was there before all of them: a younger one may be of the service (a container's proxy).
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets or any(not sockets.isdisjoint(_open_files(pid)) for pid in pids):
        return None
    found = _owner([row for row in (_table([port]) or {port: []})[port] if row.status == "LISTEN"])
    if found is None or found.pid is None or found.pid in pids:
        return None
    since, ours = start_ticks(found.pid), [ticks for pid in pids if (ticks := start_ticks(pid)) is not None]
    return found if since is not None and ours and since < min(ours) else None


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen at `port`. Columns as in proc_pid_net(5): local address, state, inode."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]


def _open_files(pid: int) -> Iterator[str]:
    """What the descriptors of a process lead to; none where that may not be looked at."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208  # links are read, not followed
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115 - a hot path


def _user(port: int, host: str, connections: Sequence[_Connection] | None) -> PortUser | None:
    error = _bind_error(host, port, reuse=True)
    if error not in (None, errno.EADDRINUSE):  # a port that we may not bind (below 1024): look it up
        return _owner(connections or ())
    if owner := _owner(connections or ()):
        return owner
    if error is not None:
        return OF_ANOTHER_USER if connections is None else LINGERING if connections else NOT_LISTENING
    # SO_REUSEADDR shares a port with what lingers and with what is bound only. The kernel's table shows what lingers;
    # behind it, who has bound all addresses is found out on another one.
    if connections is None or (connections and _bind_error(ANOTHER_LOOPBACK, port, reuse=False) is None):
        return None
    return NOT_LISTENING


def _bind_error(host: str, port: int, *, reuse: bool) -> int | None:
    """Bind and let go; the error's number, or None when it went well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno
    return None


def _table(ports: Collection[int]) -> dict[int, list[_Connection]] | None:
    """By local port the sockets that listen or are (or were) connected; None where the kernel does not tell."""
    import psutil  # noqa: PLC0415 - slow, and only needed to name a culprit

    found: dict[int, list[_Connection]] = {port: [] for port in ports}
    with contextlib.suppress(psutil.Error, OSError):
        for row in psutil.net_connections("tcp"):
            if row.laddr and row.laddr.port in found:
                found[row.laddr.port].append(row)
        return found
    return None


def _owner(connections: Sequence[_Connection]) -> PortUser | None:
    """The process that holds one of them, a listener before others."""
    import psutil  # noqa: PLC0415 - as above

    found: PortUser | None = None
    for connection in sorted(connections, key=lambda row: row.status != psutil.CONN_LISTEN):
        if connection.pid is None:
            found = found or (None if connection.status in CLOSED else OF_ANOTHER_USER)
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            return _process(connection.pid, psutil.Process(connection.pid).name())
    return found


def _process(pid: int, name: str) -> PortUser:
    name = "".join("?" if has_control_characters(c) else c for c in name)  # it has given itself that
    owner = owner_of(pid)
    if owner is None:
        return PortUser(pid=pid, name=name)
    home = str(owner.home) if owner.home else ""
    return PortUser(pid=pid, name=name, service=owner.service, home_id=owner.home_id, home=home)
