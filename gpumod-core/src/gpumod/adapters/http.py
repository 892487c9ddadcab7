"""HTTP to this machine's own services: plain HTTP/1.1 to 127.0.0.1 over httpx's transport, one deadline per request.

The transport alone is used, without httpx's client: no cookies that would wander from one service to another, no
redirects, no proxies, no TLS certificates to load. Connections are not kept, so that a server that was restarted on
the same port is never asked on a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from gpumod.ports import HttpFailure, HttpReply

HOST = "127.0.0.1"
MAX_BODY = 4 * 1024 * 1024
_SAFE = "/?&=%:@!$'()*+,;~"


class LoopbackHttp:
    """Implements :class:`gpumod.ports.Http`. Keeps no connection, so there is nothing to close."""

    def __init__(self) -> None:
        self._heard: set[int] = set()  # ports where somebody answered; at others we knock first
        self._importing: asyncio.Future[None] | None = None

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
        began_s = time.monotonic()
        try:
            if port not in self._heard:
                async with asyncio.timeout(timeout_s):
                    await _knock(port)
                began_s += await self._prepared()
            async with asyncio.timeout(timeout_s - (time.monotonic() - began_s)):
                reply = await _exchange(method, port, _target(path, query), json_body)
        except TimeoutError:
            raise HttpFailure("timeout", f"no whole answer from port {port} within {timeout_s:g} s") from None
        except HttpFailure as failure:
            if failure.kind == "refused":
                self._heard.discard(port)
                self._prepare()
            raise
        self._heard.add(port)
        return reply

    def _prepare(self) -> asyncio.Future[None]:
        """Import what the first answer will need while somebody waits for it anyhow."""
        loop = asyncio.get_running_loop()
        if self._importing is None or self._importing.get_loop() is not loop:
            self._importing = loop.run_in_executor(None, _load_httpx)
        return self._importing

    async def _prepared(self) -> float:
        """Wait until that is imported; the seconds that it took. On a busy computer it takes longer than a server may
        for its answer, and is not the server's fault."""
        began_s = time.monotonic()
        await asyncio.shield(self._prepare())
        return time.monotonic() - began_s


async def _knock(port: int) -> None:
    """Raise HttpFailure `refused` where nobody listens: cheaply, since that is asked often while a service starts."""
    with socket.socket() as caller:
        caller.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(caller, (HOST, port))
        except OSError as error:
            raise HttpFailure("refused", f"port {port}: {error.strerror}") from error


async def _exchange(method: str, port: int, target: str, json_body: Any) -> HttpReply:
    """One request over a transport of its own, which is closed whatever happens (a time-out, an interrupt)."""
    _load_httpx()
    import httpx  # noqa: PLC0415 - only a command that finds somebody to speak to pays for it

    url = httpx.URL(scheme="http", host=HOST, port=port, raw_path=target.encode())
    headers = {"User-Agent": "gpumod", "Accept-Encoding": "identity", "Connection": "close"}
    request = httpx.Request(method, url, headers=headers, json=json_body)
    body = bytearray()
    try:
        async with httpx.AsyncHTTPTransport(verify=_bare_context(), trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise HttpFailure("protocol", f"port {port} answered with more than {MAX_BODY} bytes")
            finally:
                await response.aclose()
    except httpx.ConnectError as error:
        raise HttpFailure("refused", f"port {port}: {error}") from error
    except httpx.HTTPError as error:
        what = str(error) or type(error).__name__
        raise HttpFailure("protocol", f"port {port} does not speak HTTP properly: {what}") from error
    text = body.decode("utf-8", "replace")
    return HttpReply(status=response.status_code, text=text, json_body=_parse(text))


@cache
def _load_httpx() -> None:
    if importlib.util.find_spec("sniffio") is None:
        # httpcore tries to import it several times for each request, and each search of the path takes long
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # "it is not there"
    asyncio.run(_ask_nobody())


async def _ask_nobody() -> None:
    """httpx imports half of what it needs at its first request; at port 0 there is nobody."""
    import httpx  # noqa: PLC0415 - as above

    async with httpx.AsyncHTTPTransport(verify=_bare_context(), trust_env=False) as transport:
        with contextlib.suppress(httpx.HTTPError):
            await transport.handle_async_request(httpx.Request("GET", f"http://{HOST}:0/"))


@cache
def _bare_context() -> ssl.SSLContext:
    """Nothing here speaks TLS, and loading certificates would cost 20 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _target(path: str, query: Sequence[tuple[str, str]]) -> str:
    """The request target: `path` may bring a query of its own; whatever is not plain is percent-encoded."""
    target = quote(path, safe=_SAFE, errors="replace")
    if query:
        target += ("&" if "?" in target else "?") + urlencode(query, errors="replace")
    return target


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
