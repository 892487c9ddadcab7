"""Sleep for one's own app: one transition at a time, nobody's answer cut off, and every failure told."""

from __future__ import annotations

import ast
import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket

from gpumod_fastapi import sleepable
from gpumod_fastapi.health import failure, tells_asleep
from gpumod_fastapi.options import FastApiOptions
from gpumod_fastapi.sleepable import Message, Receive, Send, Sleepable

OPTIONS = FastApiOptions(command=("x",))


class Model:
    """A model and the app that uses it: `/slow` lasts until `release` is set."""

    def __init__(self) -> None:
        self.there = False
        self.calls: list[str] = []
        self.release = asyncio.Event()
        self.fails: Exception | None = None
        self.wait = threading.Event()
        self.wait.set()

    def load(self) -> None:
        self.calls.append("load")
        self.wait.wait(5)
        if self.fails:
            raise self.fails
        self.there = True

    async def unload(self) -> None:
        self.calls.append("unload")
        await asyncio.sleep(0)
        self.there = False

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        assert self.there or scope["path"] == "/docs"
        if scope["path"] == "/slow":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await self.release.wait()
            assert self.there
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b" done"})


async def begun(app: Callable[..., Any]) -> list[Message]:
    """What a server is told when it starts the app."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return sent


@asynccontextmanager
async def serving(model: Model, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = Sleepable(model.app, load=model.load, unload=model.unload, **options)
    assert [message["type"] for message in await begun(app)] == ["lifespan.startup.complete"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client:
        yield client


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def state(client: httpx.AsyncClient) -> tuple[int, str]:
    reply = await client.get("/gpumod/health")
    return reply.status_code, reply.json()["status"]


async def test_an_app_sleeps_and_wakes() -> None:
    model = Model()
    async with serving(model) as client:
        assert (await client.get("/x")).text == " done"
        for _ in range(2):
            assert (await client.post("/gpumod/sleep")).json() == {
                "status": "asleep", "sleeping": True, "in_flight": 0,
            }  # fmt: skip
        assert await state(client) == (200, "asleep")
        refused = await client.get("/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (await client.get("/docs")).status_code == 200, "always open"
        for _ in range(2):
            assert (await client.post("/gpumod/wake")).status_code == 200
        assert (await client.get("/x")).status_code == 200
        told = (await client.get("/gpumod/activity")).json()
        assert (told["in_flight"], told["served"]) == (0, 2)
        assert told["last_use_at"] > 0
        assert (await client.get("/gpumod/sleep")).status_code == 405
        assert (await client.get("/gpumod/other")).status_code == 404
    assert model.calls == ["load", "unload", "load"]


async def test_a_sleep_waits_for_the_last_byte() -> None:
    model = Model()
    async with serving(model) as client:
        slow = asyncio.create_task(client.get("/slow"))
        await until(lambda: model.there)
        await asyncio.sleep(0.01)
        assert (await client.get("/gpumod/activity")).json()["in_flight"] == 1
        sleep = asyncio.create_task(client.post("/gpumod/sleep"))
        await asyncio.sleep(0.02)
        assert await state(client) == (200, "draining")
        assert (await client.get("/x")).status_code == 503, "no new ones"
        assert not sleep.done()
        model.release.set()
        assert (await slow).text == "half done"
        assert (await sleep).json()["sleeping"]


async def test_a_busy_app_stays_awake() -> None:
    model = Model()
    async with serving(model, drain_s=0.05) as client:
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.01)
        refused = await client.post("/gpumod/sleep")
        assert refused.status_code == 409
        assert "1 in flight" in refused.json()["detail"]
        assert await state(client) == (200, "awake")
        assert (await client.get("/x")).status_code == 200
        model.release.set()
        assert (await slow).text == "half done"
    assert model.calls == ["load"]


async def test_a_request_that_its_client_gives_up_is_not_in_flight() -> None:
    model = Model()
    async with serving(model) as client:
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.01)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert (await client.post("/gpumod/sleep")).status_code == 200


async def test_requests_wait_while_it_wakes_and_the_loop_is_free() -> None:
    model = Model()
    async with serving(model) as client:
        await client.post("/gpumod/sleep")
        model.wait.clear()
        wakes = [asyncio.create_task(client.post("/gpumod/wake")) for _ in range(3)]
        await until(lambda: model.calls[-1] == "load")
        assert await state(client) == (503, "waking")
        asked = [asyncio.create_task(client.get("/x")) for _ in range(3)]
        sleep = asyncio.create_task(client.post("/gpumod/sleep"))
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in (*asked, *wakes, sleep))
        model.wait.set()
        assert {reply.status_code for reply in await asyncio.gather(*wakes)} == {200}
        assert {reply.status_code for reply in await asyncio.gather(*asked)} <= {200, 503}
        assert (await sleep).json()["status"] == "asleep"
    assert model.calls == ["load", "unload", "load", "unload"], "one at a time, and none twice"


async def test_a_request_does_not_wait_for_ever() -> None:
    model = Model()
    async with serving(model, wake_wait_s=0.02) as client:
        await client.post("/gpumod/sleep")
        model.wait.clear()
        wake = asyncio.create_task(client.post("/gpumod/wake"))
        await until(lambda: model.calls[-1] == "load")
        assert (await client.get("/x")).status_code == 503
        model.wait.set()
        assert (await wake).status_code == 200


async def test_a_load_that_fails_is_told_and_can_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    async with serving(model) as client:
        await client.post("/gpumod/sleep")
        model.fails = RuntimeError("CUDA out of memory")
        failed = await client.post("/gpumod/wake")
        assert failed.status_code == 500
        assert failed.json() == {
            "status": "failed", "sleeping": False, "in_flight": 0, "detail": "RuntimeError: CUDA out of memory",
        }  # fmt: skip
        assert await state(client) == (500, "failed")
        assert "CUDA out of memory" in (await client.get("/x")).json()["detail"]
        assert model.calls[-1] == "unload", "nothing half loaded stays"
        assert "CUDA out of memory" in caplog.text
        model.fails = None
        assert (await client.post("/gpumod/wake")).status_code == 200
        assert await state(client) == (200, "awake")


async def test_a_client_that_gives_up_cuts_no_wake_off() -> None:
    model = Model()
    async with serving(model) as client:
        await client.post("/gpumod/sleep")
        model.wait.clear()
        wake = asyncio.create_task(client.post("/gpumod/wake"))
        await until(lambda: model.calls[-1] == "load")
        wake.cancel()
        await asyncio.gather(wake, return_exceptions=True)
        model.wait.set()
        async with asyncio.timeout(5):
            while (await state(client))[1] != "awake":
                await asyncio.sleep(0.005)
    assert model.there


async def test_a_server_whose_model_does_not_load_does_not_start() -> None:
    model = Model()
    model.fails = OSError("no such model")
    (message,) = await begun(Sleepable(model.app, load=model.load, unload=model.unload))
    assert message["type"] == "lifespan.startup.failed"
    assert "no such model" in message["message"]


def test_it_does_not_answer_for_the_whole_app() -> None:
    model = Model()
    with pytest.raises(ValueError, match="path of its own"):
        Sleepable(model.app, load=model.load, unload=model.unload, prefix="/")


async def test_an_open_first_page_opens_no_other() -> None:
    model = Model()
    sleeps = Sleepable(model.app, load=model.load, unload=model.unload, always_open=("/", "/docs/"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=sleeps), base_url="http://app") as client:
        assert (await client.get("/docs")).status_code == 200
        assert (await client.get("/fast")).status_code == 503


async def test_fastapi_takes_it_as_a_middleware() -> None:
    model = Model()
    app = FastAPI()
    app.add_middleware(Sleepable, load=model.load, unload=model.unload)

    @app.get("/here")
    async def here() -> bool:
        return model.there

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    assert (await begun(app))[0]["type"] == "lifespan.startup.complete"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client:
        assert (await client.get("/here")).json() is True
        assert await spoken(app) == ["websocket.accept", "websocket.send", "websocket.close"]
        await client.post("/gpumod/sleep")
        assert (await client.get("/here")).status_code == 503
        assert await spoken(app) == ["websocket.close"]


async def spoken(app: Callable[..., Any]) -> list[str]:
    """What a WebSocket at /live is sent."""
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/live", "raw_path": b"/live", "root_path": "", "headers": []}
    await app({**scope, "query_string": b"", "subprotocols": [], "asgi": {"version": "3.0"}}, receive, send)
    return sent


async def test_the_driver_understands_what_it_tells() -> None:
    """The two ends are made for each other."""
    from gpumod.api import HttpReply

    model = Model()
    async with serving(model) as client:

        async def told() -> HttpReply:
            reply = await client.get("/gpumod/health")
            return HttpReply(status=reply.status_code, text=reply.text, json_body=reply.json())

        assert tells_asleep(OPTIONS, await told()) is False
        await client.post("/gpumod/sleep")
        assert tells_asleep(OPTIONS, await told()) is True
        model.fails = MemoryError("no")
        await client.post("/gpumod/wake")
        assert failure(await told()) == "it says that it failed: MemoryError: no"


def test_the_file_can_be_copied_into_an_app() -> None:
    """An environment full of pins (torch, vLLM) need not hold gpumod as well."""
    tree = ast.parse(Path(sleepable.__file__).read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} <= sys.stdlib_module_names
