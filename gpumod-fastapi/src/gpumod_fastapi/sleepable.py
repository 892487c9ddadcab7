"""Sleep for an ASGI app of your own: health, sleep, wake, activity and drain, in front of the app's own routes.

This file needs the standard library alone, and imports nothing of gpumod: an app can copy it instead of installing
gpumod into its environment. FastAPI, Starlette and any other ASGI framework take it as a middleware:

    app.add_middleware(Sleepable, load=load_model, unload=unload_model)

`load` and `unload` are the app's own, plain functions (run in a thread) or coroutine functions. `load` is called when
the server starts and at every wake, `unload` at every sleep, and after a `load` that failed. All of it is per process:
run one worker.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Literal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
State = Literal["asleep", "waking", "awake", "draining", "falling-asleep", "failed"]

logger = logging.getLogger("gpumod_fastapi.sleepable")
TRY_AGAIN_LATER = 1013
"""The code with which a WebSocket is closed that was opened while the app sleeps."""


class Sleepable:
    """Wraps `app`. Under `prefix` it answers itself:

    - GET `/health`: 200 awake or asleep, 503 while it wakes, 500 when it failed; the JSON tells `sleeping` and `status`
    - POST `/sleep`: 200 when it sleeps; 409 when requests were still in flight after `drain_s` (it then stays awake)
    - POST `/wake`: 200 when it is awake; 500 with the reason when `load` failed
    - GET `/activity`: `in_flight` requests, `served` since the start, `last_use_at` (seconds since the epoch, or null)

    Sleep and wake are idempotent, and happen one at a time. Every other request counts as in flight until its last byte
    is sent, but for those to a path of `always_open` or below it (`/` is that page alone). While the app wakes they
    wait, for `wake_wait_s` at most; while it sleeps or drains they get 503 with Retry-After.
    """

    def __init__(
        self,
        app: App,
        *,
        load: Callable[[], Any],
        unload: Callable[[], Any],
        prefix: str = "/gpumod",
        always_open: Sequence[str] = ("/health", "/docs", "/openapi.json"),
        drain_s: float = 30.0,
        wake_wait_s: float = 60.0,
        retry_after_s: int = 5,
    ) -> None:
        if not prefix.strip("/"):
            raise ValueError("prefix must be a path of its own, such as /gpumod: all below it is answered here")
        self._app, self._load, self._unload = app, load, unload
        self._prefix = prefix.rstrip("/")
        self._always_open = tuple(path.rstrip("/") or "/" for path in always_open)
        self._drain_s, self._wake_wait_s, self._retry_after_s = drain_s, wake_wait_s, retry_after_s
        self._state: State = "asleep"
        self._reason = ""
        self._in_flight = 0
        self._served = 0
        self._last_use_at: float | None = None
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Future[tuple[int, dict[str, Any]]]] = set()
        self._idle, self._settled = asyncio.Event(), asyncio.Event()  # nothing in flight; not on the way to awake
        self._idle.set()
        self._settled.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._loading_first(send))
            return
        path = _path_of(scope)
        if scope["type"] == "http" and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            await self._answer(scope["method"], path.removeprefix(self._prefix), send)
        elif any(path == free or path.startswith(f"{free}/") for free in self._always_open):
            await self._app(scope, receive, send)
        elif await self._admitted():
            await self._use(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": self._said()})
        else:
            await _reply(send, 503, {"detail": self._said()}, retry_after_s=self._retry_after_s)

    # --- requests of the app's users

    async def _admitted(self) -> bool:
        """Whether a request may go on; while the app wakes it waits for that."""
        if await _within(self._wake_wait_s, self._settled):
            return self._state == "awake"
        return False

    async def _use(self, scope: Message, receive: Receive, send: Send) -> None:
        # nothing is awaited between the look at the state and this: a sleep cannot slip in
        self._in_flight += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._served += 1
            self._last_use_at = time.time()
            if not self._in_flight:
                self._idle.set()

    # --- our own

    async def _answer(self, method: str, path: str, send: Send) -> None:
        known: dict[str, tuple[str, Callable[[], Awaitable[tuple[int, dict[str, Any]]]]]] = {
            "/health": ("GET", self._health),
            "/activity": ("GET", self._activity),
            "/sleep": ("POST", self._sleep),
            "/wake": ("POST", self._wake),
        }
        if path not in known:
            await _reply(send, 404, {"detail": "Not Found"})
            return
        wanted, act = known[path]
        if method != wanted:
            await _reply(send, 405, {"detail": f"use {wanted}"})
            return
        # a client that gives up does not cut a sleep or a wake off in the middle
        task = asyncio.ensure_future(act())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        status, body = await asyncio.shield(task)
        await _reply(send, status, body)

    async def _health(self) -> tuple[int, dict[str, Any]]:
        status = {"failed": 500, "waking": 503}.get(self._state, 200)
        return status, self._told()

    async def _activity(self) -> tuple[int, dict[str, Any]]:
        return 200, {"in_flight": self._in_flight, "served": self._served, "last_use_at": self._last_use_at}

    async def _sleep(self) -> tuple[int, dict[str, Any]]:
        async with self._turn:
            if self._state == "asleep":
                return 200, self._told()
            if self._state == "awake":
                self._become("draining")
                if not await _within(self._drain_s, self._idle):
                    self._become("awake")
                    busy = f"busy: {self._in_flight} in flight after {self._drain_s:g} s"
                    return 409, {**self._told(), "detail": busy}
            return await self._go("falling-asleep", self._unload, "asleep")

    async def _wake(self) -> tuple[int, dict[str, Any]]:
        async with self._turn:
            if self._state == "awake":
                return 200, self._told()
            answer = await self._go("waking", self._load, "awake")
            if answer[0] != 200:
                await _failure_of(self._unload)  # what was half loaded is not to stay; why it failed is told already
            return answer

    async def _go(self, through: State, act: Callable[[], Any], to: State) -> tuple[int, dict[str, Any]]:
        """Call `load` or `unload`; the state afterwards is `to`, or `failed` with the reason."""
        self._become(through)
        reason = await _failure_of(act)
        self._become("failed" if reason else to, reason)
        return 500 if reason else 200, self._told()

    def _become(self, state: State, reason: str = "") -> None:
        self._state, self._reason = state, reason
        if state == "waking":
            self._settled.clear()
        else:
            self._settled.set()

    def _loading_first(self, send: Send) -> Send:
        """`load` runs when the app has started up, before the server opens its port."""

        async def loading(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and (await self._wake())[0] != 200:
                await send({"type": "lifespan.startup.failed", "message": f"load failed: {self._reason}"})
                return
            await send(message)

        return loading

    def _told(self) -> dict[str, Any]:
        sleeping = self._state in ("asleep", "waking")
        told = {"status": self._state, "sleeping": sleeping, "in_flight": self._in_flight}
        return {**told, "detail": self._reason} if self._reason else told

    def _said(self) -> str:
        return f"the model is {self._state}" + (f": {self._reason}" if self._reason else "")


async def _failure_of(act: Callable[[], Any]) -> str:
    """Call `act`; why it failed, or "". A plain function runs in a thread, so that the server goes on answering."""
    try:
        if inspect.iscoroutinefunction(act):
            await act()
        elif inspect.isawaitable(result := await asyncio.to_thread(act)):
            await result
    except Exception as error:
        logger.exception("%s failed", getattr(act, "__qualname__", act))
        return f"{type(error).__name__}: {error}"
    return ""


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for `event`; False when time is out."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


def _path_of(scope: Message) -> str:
    """The path as the app sees it: without the prefix under which it is mounted (`root_path`)."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


async def _reply(send: Send, status: int, body: dict[str, Any], *, retry_after_s: int | None = None) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
