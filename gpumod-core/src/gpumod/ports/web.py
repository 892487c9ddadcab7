"""HTTP and time, as the engine and plugins are handed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from gpumod.domain.base import Frozen


class HttpReply(Frozen):
    """An answer: `status` and `text`; `json_body` is the parsed body, or None when it is not JSON."""

    status: int
    text: str = ""
    json_body: Any = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class HttpFailure(Exception):
    """No answer: refused, reset, timed out, or not HTTP. An expected answer, never a traceback."""

    def __init__(self, kind: Literal["refused", "timeout", "protocol"], detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Http(Protocol):
    """HTTP to 127.0.0.1, without proxies and TLS. Raises :class:`HttpFailure`."""

    async def request(
        self,
        method: str,
        port: int,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Any = None,
        timeout_s: float = 2.0,
    ) -> HttpReply: ...


class Clock(Protocol):
    """Time, injected: seconds since the epoch, a monotonic clock, and sleep."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
