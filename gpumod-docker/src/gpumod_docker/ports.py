"""Ports that a container publishes: on this machine alone (SEC-D8)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

LOOPBACK = "127.0.0.1"
OWN = "{port}"
"""In the place of a port of this machine: the service's own, whichever that is."""
_PORT = re.compile(r"(?:(?P<address>.*):)?(?P<host>[0-9]{1,5}):(?P<container>[0-9]{1,5})(?:/(?P<kind>[a-z]+))?")


class PublishedPort(NamedTuple):
    """TCP `host` on this machine (0: the service's own port) leads to `container` in there."""

    host: int
    container: int


def read_port(value: Any) -> PublishedPort:
    """`8000`, `7850:8000`, `{port}:8000` or `127.0.0.1:7850:8000`. Raises ValueError, also for what others reach."""
    if isinstance(value, PublishedPort):
        return value
    text = str(value)
    own = text.startswith(f"{OWN}:")
    if own:
        text = text.replace(OWN, "65535", 1)
    match = _PORT.fullmatch(f"{text}:{text}" if re.fullmatch(r"[0-9]{1,5}", text) else text)
    if match is None or isinstance(value, bool | float):
        raise ValueError(f"{text!r:.60} is no port: CONTAINER, HOST:CONTAINER or {LOOPBACK}:HOST:CONTAINER")
    if match["address"] not in (None, LOOPBACK):
        raise ValueError(f"{text!r:.60} is refused: ports are published at {LOOPBACK} alone (SEC-D8)")
    if match["kind"] not in (None, "tcp"):
        raise ValueError(f"{text!r:.60} is refused: only TCP ports are published")
    ports = PublishedPort(int(match["host"]), int(match["container"]))
    if not all(1 <= port <= 65535 for port in ports):
        raise ValueError(f"{text!r:.60} is no port: they go from 1 to 65535")
    if ports.host < 1024:
        raise ValueError(f"{text!r:.60} is refused: ports of this machine below 1024 are its own services'")
    return ports._replace(host=0) if own else ports
