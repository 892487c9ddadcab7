"""A small HTTP server that stands for a runtime in a driver's tests, and a clock on which waiting costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from gpumod.ports import HttpFailure, HttpReply


@dataclass(frozen=True)
class Call:
    """One request as the server got it. `json_body` is None where there was none."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json_body: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Answer = tuple[int, Any]
"""A status and a body: bytes and texts go out as they are, anything else as JSON."""


class FakeWeb:
    """Serves `answer` on a free port of 127.0.0.1 while the `async with` lasts, and keeps the calls.

    An answer of None never comes (the client has to give up); `answer` may be a coroutine function.
    """

    def __init__(self, answer: Callable[[Call], Answer | Awaitable[Answer | None] | None]) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def said(self) -> list[str]:
        """The calls as texts: `POST /sleep`."""
        return [str(call) for call in self.calls]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = await _read(reader)
            self.calls.append(call)
            answer = self.answer(call)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer is None:
                await reader.read()  # until the client goes away
            else:
                writer.write(_render(*answer))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    url = urlsplit(target)
    query = tuple(parse_qsl(url.query, keep_blank_values=True))
    return Call(method, unquote(url.path), query, json.loads(body) if body else None)


def _render(status: int, body: Any) -> bytes:
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"HTTP/1.1 {status} -\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    return head.encode() + data


class NoAnswer:
    """HTTP on which every request fails at once in one way: `refused`, `timeout` or `protocol`."""

    def __init__(self, kind: Literal["refused", "timeout", "protocol"]) -> None:
        self.kind = kind

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
        raise HttpFailure(self.kind, f"{self.kind}: {method} {path} on port {port}")


class QuickClock:
    """A clock whose `sleep` only moves its own time on (and lets others run)."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await asyncio.sleep(0)
