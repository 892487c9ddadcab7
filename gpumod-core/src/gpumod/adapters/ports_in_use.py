"""Who listens on a port."""

from __future__ import annotations

import contextlib
import errno
import socket

from gpumod.ports import PortUser


def port_user(port: int, host: str = "127.0.0.1") -> PortUser | None:
    """Return who keeps a server from listening on `host`:`port` (TCP), or None when the port is free.

    A listener on all addresses keeps it too. Binding decides; a port that we may not bind (below 1024) is looked up.
    """
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _listener(port) or PortUser(
                name="connections of a server that just ended (they linger for up to a minute)"
            )
        return _listener(port)
    return None


def _bind(host: str, port: int) -> None:
    """Bind and let go. SO_REUSEADDR: connections that linger after a server's end do not count, a listener does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _listener(port: int) -> PortUser | None:
    import psutil  # noqa: PLC0415 - slow, and only needed to name a culprit

    found: PortUser | None = None
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or connection.laddr.port != port:
                continue
            if connection.pid is None:
                found = PortUser(name="a process of another user")
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                return PortUser(pid=connection.pid, name=psutil.Process(connection.pid).name())
    return found
