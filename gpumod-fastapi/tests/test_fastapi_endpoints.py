"""Endpoints of somebody else's making: their methods, bodies, and where their answers tell what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Activity, Allocation, Failed, HttpReply, ReportsActivity, Service, Settings
from gpumod.testing.web import Answer, Call, FakeWeb, QuickClock
from gpumod_fastapi.driver import FastApiDriver
from gpumod_fastapi.health import count_at, tells_asleep, value_at
from gpumod_fastapi.options import FastApiOptions
from gpumod_fastapi.sleep import HttpSleep

DRIVER, HTTP, SLEEP = FastApiDriver(), LoopbackHttp(), HttpSleep()
FREE = {"unload_models": True, "free_memory": True}
COMFY = {
    "command": "python main.py --port {port}",
    "loads_by_use": True,
    "sleep_path": "/free",
    "sleep_body": FREE,
    "asleep_path": "/system_stats",
    "asleep_field": "devices.0.torch_vram_total",
    "asleep_at_most": 500,
    "activity_path": "/queue",
    "activity_fields": ["queue_running", "queue_pending"],
}
"""As much of ComfyUI's interface as its preset uses."""


def a_service(**options: Any) -> Service:
    return Service(id="own", driver="fastapi", port=7000, sleep_mode="http", unit_vars=options)


class Comfy:
    def __init__(self, *, queue: int = 0, frees: bool = True) -> None:
        self.queue, self.frees, self.held = queue, frees, 9000
        self.bodies: list[Any] = []

    def __call__(self, call: Call) -> Answer:
        if str(call) == "POST /free":
            self.bodies.append(call.json_body)
            self.held = 100 if self.frees else self.held
            return 200, b""
        if str(call) == "GET /queue":
            self.queue = max(0, self.queue - 1)
            return 200, {"queue_running": [[1, "id"]] * self.queue, "queue_pending": []}
        return 200, {"devices": [{"torch_vram_total": self.held}]}


async def test_a_server_that_loads_by_use_is_told_to_free_its_memory() -> None:
    comfy = Comfy(queue=3)
    async with FakeWeb(comfy) as web:
        service = a_service(**COMFY)
        await SLEEP.sleep(service, web.port, HTTP, QuickClock())
        assert comfy.bodies == [FREE]
        assert comfy.held == 100
        assert web.said().index("POST /free") > 2, "it was drained first"
        assert (await DRIVER.probe(service, web.port, HTTP)).state == "ready", (
            "its word would be the same after a start"
        )
        calls = len(web.calls)
        await SLEEP.wake(service, web.port, HTTP, QuickClock())
        assert len(web.calls) == calls, "the next request wakes it"
        warm = a_service(**COMFY, wake_path="/prompt", wake_body={"prompt": {}})
        await SLEEP.wake(warm, web.port, HTTP, QuickClock())
        assert str(web.calls[-1]) == "POST /prompt"
    capabilities = DRIVER.capabilities(service)
    assert capabilities.loads_by_use
    assert capabilities.unloads_itself
    assert capabilities.sleep_levels == ("http",)


async def test_one_that_keeps_its_memory_is_not_asleep() -> None:
    async with FakeWeb(Comfy(frees=False)) as web:
        with pytest.raises(Failed) as caught:
            await SLEEP.sleep(a_service(**COMFY), web.port, HTTP, QuickClock())
    assert caught.value.code == "sleep-failed"
    assert "/system_stats says otherwise" in caught.value.info.why


async def test_sleep_and_wake_with_methods_and_bodies_of_ones_own() -> None:
    state = "up"

    def answer(call: Call) -> Answer:
        nonlocal state
        if str(call) in ("PUT /state", "DELETE /state"):
            assert call.json_body == ({"to": "rest"} if call.method == "PUT" else None)
            state = "resting" if call.method == "PUT" else "up"
        return 200, {"engine": {"state": state}} if call.path == "/engine" else b"fine"

    options = {"command": "serve", "sleep_path": "/state", "sleep_method": "PUT", "sleep_body": {"to": "rest"}}
    options |= {"wake_path": "/state", "wake_method": "DELETE"}
    options |= {"asleep_path": "/engine", "asleep_field": "engine.state", "asleep_value": "resting"}
    async with FakeWeb(answer) as web:
        service = a_service(**options)
        for word, act in (("sleeping", SLEEP.sleep), ("ready", SLEEP.wake)):
            await act(service, web.port, HTTP, QuickClock())
            assert (await DRIVER.probe(service, web.port, HTTP)).state == word


@pytest.mark.parametrize(
    ("verb", "answers", "code", "says"),
    [
        ("sleep", {"POST /sleep": (409, "2 in flight")}, "busy", "409: 2 in flight"),
        ("wake", {"POST /wake": (409, "no")}, "wake-failed", "409"),
        ("wake", {"GET /health": (500, {"status": "failed", "detail": "no CUDA"})}, "wake-failed", "no CUDA"),
        ("sleep", {"GET /health": (500, {"status": "failed"})}, "sleep-failed", "without a reason"),
    ],
)
async def test_what_a_service_says_of_itself_is_passed_on(
    verb: str, answers: dict[str, Answer], code: str, says: str
) -> None:
    fine: Answer = (200, {"sleeping": verb == "wake"})
    async with FakeWeb(lambda call: answers.get(str(call), fine)) as web:
        service = a_service(command="serve", sleep_path="/sleep", wake_path="/wake")
        with pytest.raises(Failed) as caught:
            await (SLEEP.sleep if verb == "sleep" else SLEEP.wake)(service, web.port, HTTP, QuickClock())
    assert caught.value.code == code
    assert says in caught.value.info.why


async def test_a_service_that_says_that_it_failed_is_not_waited_for() -> None:
    async with FakeWeb(lambda _: (500, {"status": "failed", "detail": "no such model"})) as web:
        told = await DRIVER.probe(a_service(command="serve"), web.port, HTTP)
    assert (told.state, told.detail) == ("failed", "it says that it failed: no such model")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((200, {"in_flight": 2, "served": 7, "last_use_at": 5.5}), (2, 7, 5.5)),
        ((200, {"in_flight": 0, "served": "many", "last_use_at": None}), (0, None, None)),
        ((200, {"in_flight": "one"}), None),
        ((404, {"in_flight": 1}), None),
        ((200, b"busy"), None),
    ],
)
async def test_the_use_of_a_service_is_read(answer: Answer, told: tuple[Any, ...] | None) -> None:
    assert isinstance(DRIVER, ReportsActivity)
    async with FakeWeb(lambda _: answer) as web:
        found = await DRIVER.activity(a_service(command="x", activity_path="/use"), web.port, HTTP)
        assert web.said() == ["GET /use"]
        assert await DRIVER.activity(a_service(command="x"), web.port, HTTP) is None
    assert (found and (found.in_flight, found.served, found.last_use_at)) == told
    comfy = Comfy(queue=3)
    async with FakeWeb(comfy) as web:
        read = await DRIVER.activity(a_service(**COMFY), web.port, HTTP)
    assert read == Activity(in_flight=2)


def test_an_app_is_started_by_uvicorn() -> None:
    options = {"app": "asr.main:make()", "app_args": "--factory --log-level debug", "uvicorn_bin": "/v/bin/uvicorn"}
    argv = DRIVER.launch(a_service(**options).model_copy(update={"sleep_mode": "none"}), Allocation(), Settings()).argv
    assert argv == ("/v/bin/uvicorn", "asr.main:make()", "--host", "127.0.0.1", "--port", "7000", *argv[6:])
    assert argv[6:] == ("--factory", "--log-level", "debug")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.lists(st.sampled_from(["a", "b", "0", "1"]), min_size=1, max_size=4))
def test_any_answer_can_be_looked_into(body: Any, parts: list[str]) -> None:
    """Whatever a server answers: what is there is found, and nothing is raised."""
    place = ".".join(parts)
    options = FastApiOptions(command=("x",), asleep_field=place, asleep_at_most=3)
    reply = HttpReply(status=200, json_body=body)
    assert tells_asleep(options, reply) in (True, False, None)
    count = count_at(reply, (place,))
    assert count is None or count >= 0
    wrapped = value_at({"a": [body]}, f"a.0.{place}")
    assert wrapped == value_at(body, place)
