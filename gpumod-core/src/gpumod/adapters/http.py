"""HTTP to this machine's own services: plain HTTP/1.1 to 127.0.0.1, one connection per request, one deadline.

It is written on asyncio streams and h11 (the parser below httpx): a service that is polled every 20 ms needs no
pool, no TLS context, no proxies and no redirects, and importing httpx costs ten times as much. A connection is never
reused, so that a server that was restarted on the same port cannot answer on a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from gpumod.ports import HttpFailure, HttpReply

if TYPE_CHECKING:
    import h11

HOST = "127.0.0.1"
MAX_BODY = 4 * 1024 * 1024
_MAX_HEAD = 64 * 1024
_READ = 64 * 1024
_SAFE = "/?&=%:@!$'()*+,;~"


class LoopbackHttp:
    """Implements :class:`gpumod.ports.Http`. Holds no connection, so there is nothing to close."""

    async def request(
        self,
        method: str,
        port: int,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Any = None,
        timeout_s: float = 2.0,
    ) -> HttpReply:
        """Send a request and return the whole answer, of any status; `timeout_s` bounds all of it.

        A body of more than 4 MiB is a `protocol` failure. Raises HttpFailure, and nothing else for what a server does.
        """
        if not path.startswith("/"):
            raise HttpFailure("protocol", f"the path {path!r} does not begin with /")
        body = b"" if json_body is None else json.dumps(json_body).encode()
        try:
            async with asyncio.timeout(timeout_s):
                return await _exchange(method, port, _target(path, query), body)
        except TimeoutError:
            raise HttpFailure("timeout", f"no whole answer from port {port} within {timeout_s:g} s") from None


def _target(path: str, query: Sequence[tuple[str, str]]) -> str:
    """The request target: `path` may bring a query of its own; whatever is not plain is percent-encoded."""
    target = quote(path, safe=_SAFE, errors="replace")
    if query:
        target += ("&" if "?" in target else "?") + urlencode(query, errors="replace")
    return target


async def _exchange(method: str, port: int, target: str, body: bytes) -> HttpReply:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except TimeoutError:
        raise
    except OSError as error:
        raise HttpFailure("refused", f"port {port}: {error.strerror or error}") from error
    try:
        return await _converse(reader, writer, port, _request(method, port, target, body), body)
    except TimeoutError:
        raise
    except OSError as error:
        raise HttpFailure("protocol", f"port {port} broke the connection: {error.strerror or error}") from error
    finally:
        writer.transport.abort()


def _request(method: str, port: int, target: str, body: bytes) -> h11.Request:
    import h11  # noqa: PLC0415 - only a command that speaks HTTP pays for it

    headers = [
        ("Host", f"{HOST}:{port}"),
        ("User-Agent", "gpumod"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    if body:
        headers.append(("Content-Type", "application/json"))
    if body or method in ("POST", "PUT", "PATCH"):
        headers.append(("Content-Length", str(len(body))))
    return h11.Request(method=method, target=target, headers=headers)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, request: h11.Request, body: bytes
) -> HttpReply:
    import h11  # noqa: PLC0415

    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    writer.write(connection.send(request) or b"")
    writer.write(connection.send(h11.Data(data=body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    with contextlib.suppress(ConnectionError):  # a server may answer and close before it has read everything
        await writer.drain()
    status = 0
    answer = bytearray()
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > MAX_BODY:
                    raise HttpFailure("protocol", f"port {port} answered with more than {MAX_BODY} bytes")
    except h11.RemoteProtocolError as error:
        raise HttpFailure("protocol", f"port {port} does not speak HTTP properly: {error}") from error
    if not status:
        raise HttpFailure("protocol", f"port {port} closed the connection without an answer")
    text = answer.decode("utf-8", "replace")
    return HttpReply(status=status, text=text, json_body=_parse(text))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
