"""A tiny HTTP/1.1 server on asyncio: keep-alive, bodies by Content-Length, one request at a time on a connection.

A client that goes away cancels the handler of its request, as the real servers do.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_HEAD = 65_536
MAX_BODY = 64 * 1024 * 1024


class Request:
    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.target = target
        self.path = unquote(parts.path)
        self.query: list[tuple[str, str]] = parse_qsl(parts.query, keep_blank_values=True)
        self.headers = headers
        self.body = body

    def first(self, name: str, default: str | None = None) -> str | None:
        """The first value of a query parameter."""
        return next((value for key, value in self.query if key == name), default)

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


class Reply:
    def __init__(self, status: int, body: bytes = b"", content_type: str = "application/json") -> None:
        self.status, self.body, self.content_type = status, body, content_type


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


Handler = Callable[[Request], Awaitable[Reply]]


class _Connection(asyncio.Protocol):
    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.buffer = b""
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what a TCP server is given
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.task:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.task is None:
            self._next()

    def _next(self) -> None:
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            if len(self.buffer) > MAX_HEAD:
                self._refuse(431)
            return None
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        length = headers.get("content-length", "0")
        if len(words) != 3 or not length.isdigit():
            return self._refuse(400)
        if "transfer-encoding" in headers:
            return self._refuse(411)
        if int(length) > MAX_BODY:
            return self._refuse(413)
        if len(rest) < int(length):
            if headers.get("expect", "").lower() == "100-continue" and not rest:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self.buffer = rest[int(length) :]
        request = Request(words[0], words[1], headers, rest[: int(length)])
        keep = words[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self.task = asyncio.get_running_loop().create_task(self._answer(request, keep=keep))
        return None

    async def _answer(self, request: Request, *, keep: bool) -> None:
        try:
            reply = await self.server.handle(request)
        except Exception:  # noqa: BLE001  # a server answers 500 and lives
            traceback.print_exc(file=sys.stderr)
            reply = json_reply({"error": {"message": "internal error", "code": 500}}, 500)
        self._write(reply, keep=keep, head_only=request.method == "HEAD")
        self.task = None
        if not keep:
            self.transport.close()
        elif self.buffer:
            self._next()

    def _refuse(self, status: int) -> None:
        self._write(Reply(status), keep=False, head_only=False)
        self.transport.close()

    def _write(self, reply: Reply, *, keep: bool, head_only: bool) -> None:
        head = (
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\nContent-Type: {reply.content_type}\r\n"
            f"Content-Length: {len(reply.body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        self.transport.write(head.encode("latin-1") + (b"" if head_only else reply.body))


class HttpServer:
    """Serves `handle` on a bound socket. It does not listen before `serve`."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, sock: socket.socket) -> None:
        # Only now (see `bind`): connections inherit it, and then do not bar the port to the next server as they linger.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=sock)

    def stop_listening(self) -> None:
        if self._server:
            self._server.close()

    async def close(self, wait_s: float = 0.0) -> None:
        """Stop listening, let requests in flight end for `wait_s`, and drop the connections."""
        self.stop_listening()
        tasks = [connection.task for connection in self.connections if connection.task]
        if tasks and wait_s > 0:
            await asyncio.wait(tasks, timeout=wait_s)
        for connection in list(self.connections):
            connection.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet. Raises OSError when the port is taken.

    SO_REUSEADDR comes only second (for connections in TIME_WAIT): with it, two sockets that do not listen yet could
    share a port.
    """
    for reuse in (0, 1):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            if reuse or error.errno != errno.EADDRINUSE:
                raise
        else:
            return sock
    raise AssertionError("unreachable")
