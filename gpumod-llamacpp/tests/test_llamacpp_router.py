"""Loading and unloading against a server that answers as llama.cpp's router does, traps included."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Failed, HttpFailure, HttpReply, Service
from gpumod.testing.web import Answer, Call, FakeWeb, NoAnswer, QuickClock
from gpumod_llamacpp.activity import read_activity
from gpumod_llamacpp.driver import LlamaCppDriver
from gpumod_llamacpp.sleep import RouterSleep

DRIVER, HTTP = LlamaCppDriver(), LoopbackHttp()
HOST = Service(id="router", driver="llamacpp", port=8080, unit_vars={"router": True})
CHAT = Service(
    id="chat", driver="llamacpp", host="router", model_path="/m/a.gguf", sleep_mode="router", startup_timeout=5
)
SINGLE = Service(id="glm", driver="llamacpp", port=8001, model_path="/m/a.gguf")


def error(status: int, message: str) -> Answer:
    return status, {"error": {"code": status, "message": message, "type": "x"}}


class Router:
    """Load and unload are accepted at once and done `steps` listings later."""

    def __init__(self, **models: str) -> None:
        self.status: dict[str, dict[str, Any]] = {name: {"value": value} for name, value in models.items()}
        self.steps = 2
        self.becomes: dict[str, tuple[int, dict[str, Any]]] = {}
        self.load_ends: dict[str, Any] = {"value": "loaded"}
        self.unload_ends: dict[str, Any] = {"value": "unloaded"}
        self.busy = 0
        self.refusals: list[Answer] = []
        self.own_words: list[Answer | None] = []
        """What the members say next, through the router; they are well when this is empty."""

    def __call__(self, call: Call) -> Answer | None:
        if str(call) == "GET /models":
            return self.list(call)
        if str(call) == "GET /metrics":
            assert dict(call.query) == {"model": "chat", "autoload": "false"}, "it would load the model"
            self.busy -= 1
            return 200, f"llamacpp:requests_processing {max(0, self.busy)}\nllamacpp:requests_deferred 0\n"
        if str(call) == "GET /props":
            return self.props(dict(call.query))
        name = (call.json_body or {}).get("model", "")
        if str(call) == "POST /models/load":
            return self.load(name)
        if str(call) == "POST /models/unload":
            return self.unload(name)
        raise AssertionError(f"{call} wakes, or does not exist")

    def list(self, call: Call) -> Answer:
        for name, (steps, status) in list(self.becomes.items()):
            self.becomes[name] = (steps - 1, status)
            if steps <= 1:
                self.status[name] = status
                del self.becomes[name]
        if dict(call.query).get("reload"):
            self.status = {name: {"value": status["value"]} for name, status in self.status.items()}
        return 200, {"object": "list", "data": [{"id": name, "status": s} for name, s in self.status.items()]}

    def props(self, query: dict[str, str]) -> Answer | None:
        assert query.get("autoload") == "false", "it would load the model"
        if query["model"] not in self.status:
            return error(400, f"model '{query['model']}' not found")
        value = self.status[query["model"]]["value"]
        if value == "unloaded":
            return error(400, "model is not loaded")
        if value == "loading":
            return error(503, "Loading model")
        return self.own_words.pop(0) if self.own_words else (200, {"is_sleeping": value == "sleeping"})

    def load(self, name: str) -> Answer:
        if self.refusals:
            return self.refusals.pop()
        if name not in self.status:
            return error(404, "File Not Found")
        if self.status[name]["value"] != "unloaded":
            return error(400, "model is already running")
        self.status[name] = {"value": "loading"}
        self.becomes[name] = (self.steps, self.load_ends)
        return 200, {"success": True}

    def unload(self, name: str) -> Answer:
        if name not in self.status:
            return error(400, "model is not found")
        if self.status[name]["value"] == "unloaded":
            return error(400, "model is not running")
        self.becomes[name] = (self.steps, self.unload_ends)
        return 200, {"success": True}


class HastyClock(QuickClock):
    """Time that flies, where half a minute is waited for nothing."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(20 * seconds)


def posts(web: FakeWeb) -> list[str]:
    return [str(call) for call in web.calls if call.method == "POST"]


async def test_load_returns_when_it_is_loaded() -> None:
    router = Router(chat="unloaded")
    async with FakeWeb(router) as web:
        await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
        assert router.status["chat"]["value"] == "loaded"
        await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
        assert posts(web) == ["POST /models/load"] * 2


async def test_load_asks_again_while_the_router_has_no_room_or_is_stopping_it() -> None:
    router = Router(chat="unloaded")
    router.refusals = [error(500, "model limit reached, try again later"), error(400, "model is already running")]
    async with FakeWeb(router) as web:
        await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
        assert posts(web) == ["POST /models/load"] * 3
    assert router.status["chat"]["value"] == "loaded"


async def test_a_load_is_done_when_the_model_itself_answers() -> None:
    router = Router(chat="unloaded")
    router.own_words = [error(500, "proxy error: Could not establish connection")] * 2
    async with FakeWeb(router) as web:
        await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
        assert web.said().count("GET /props") == 3
        assert posts(web) == ["POST /models/load"]


@pytest.mark.parametrize("word", [error(500, "proxy error: Could not establish connection"), None])
async def test_a_model_that_is_loaded_and_never_answers_is_no_success(word: Answer | None) -> None:
    router = Router(chat="unloaded")
    router.own_words = [word] * 10_000
    clock = QuickClock()
    member = CHAT.model_copy(update={"startup_timeout": 0.2})
    async with FakeWeb(router) as web:
        with pytest.raises(Failed) as caught:
            await DRIVER.load(member, web.port, HTTP, clock)
    assert caught.value.code == "load-timeout"
    assert "router says that it is loaded" in caught.value.info.why
    assert clock.time_s < 1001


async def test_a_load_that_failed_before_is_not_held_against_the_next() -> None:
    router = Router()
    router.status["chat"] = {"value": "unloaded", "failed": True, "exit_code": 1}
    router.refusals = [error(500, "model limit reached, try again later")]
    async with FakeWeb(router) as web:
        await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
    assert router.status["chat"]["value"] == "loaded"


async def load_failure(router: Router) -> Failed:
    async with FakeWeb(router) as web:
        with pytest.raises(Failed) as caught:
            await DRIVER.load(CHAT, web.port, HTTP, QuickClock())
    return caught.value


async def test_every_failed_load_has_its_name() -> None:
    router = Router(chat="unloaded")
    router.load_ends = {"value": "unloaded", "failed": True, "exit_code": 1}
    failed = await load_failure(router)
    assert failed.code == "load-failed"
    assert "exit code 1" in failed.info.why

    assert (await load_failure(Router(other="unloaded"))).code == "unknown-member"

    router = Router(chat="unloaded")
    router.steps = 10_000
    assert (await load_failure(router)).code == "load-timeout"

    router = Router(chat="unloaded")
    router.refusals = [error(500, "no more threads")]
    failed = await load_failure(router)
    assert failed.code == "load-failed"
    assert "no more threads" in failed.info.why


@pytest.mark.parametrize(
    ("kind", "state", "load_code", "unload_code"),
    [
        ("refused", "starting", "load-failed", "unload-failed"),
        ("timeout", "unhealthy", "load-timeout", "unload-timeout"),
        ("protocol", "unhealthy", "load-timeout", "unload-failed"),
    ],
)
async def test_a_router_that_does_not_answer_is_no_traceback(
    kind: Any, state: str, load_code: str, unload_code: str
) -> None:
    http = NoAnswer(kind)
    for act, code in ((DRIVER.load, load_code), (DRIVER.unload, unload_code)):
        with pytest.raises(Failed) as caught:
            await act(CHAT, 1, http, QuickClock())
        assert caught.value.code == code
    with pytest.raises(Failed) as caught:
        await DRIVER.reload(HOST, 1, http, QuickClock())
    assert caught.value.code == "router-error"
    with pytest.raises(HttpFailure):
        await DRIVER.members(HOST, 1, (), http)
    for service in (CHAT, HOST, SINGLE):
        assert (await DRIVER.probe(service, 1, http)).state == state


async def test_unload_drains_then_waits_until_it_is_unloaded() -> None:
    router = Router(chat="loaded")
    router.busy = 4
    async with FakeWeb(router) as web:
        await DRIVER.unload(CHAT, web.port, HTTP, QuickClock())
        said = web.said()
    assert router.status["chat"]["value"] == "unloaded"
    assert said.count("GET /metrics") == 4
    assert said.index("POST /models/unload") > max(n for n, call in enumerate(said) if call == "GET /metrics")


class AtWork(LoopbackHttp):
    """Its first questions after a member's use have no answer in time: the child is in the middle of a batch."""

    late = 3

    def __init__(self, *silent: str) -> None:
        super().__init__()
        self.silent = silent

    async def request(self, method: str, port: int, path: str, **more: Any) -> HttpReply:
        if path in self.silent and self.late:
            self.late -= path == "/metrics"
            raise HttpFailure("timeout", "no answer in 2 s")
        return await super().request(method, port, path, **more)


@pytest.mark.parametrize(("silent", "unasked"), [(("/metrics",), 0), (("/metrics", "/props"), 2)])
async def test_a_member_that_is_too_busy_to_tell_is_waited_for_and_one_that_hangs_is_not(
    silent: Any, unasked: int
) -> None:
    async with FakeWeb(Router(chat="loaded")) as web:
        await DRIVER.unload(CHAT, web.port, http := AtWork(*silent), QuickClock())
    assert http.late == unasked


async def test_unload_gives_up_draining_and_forgets_that_the_child_was_killed() -> None:
    router = Router(chat="loaded")
    router.busy = 10**6
    router.unload_ends = {"value": "unloaded", "failed": True, "exit_code": 1}
    clock = HastyClock()
    async with FakeWeb(router) as web:
        await DRIVER.unload(CHAT, web.port, HTTP, clock)
        assert (await DRIVER.probe(CHAT, web.port, HTTP)).state == "sleeping"
    assert clock.time_s >= 1030


@pytest.mark.parametrize(("timeout_s", "least_s", "most_s"), [(0, 0, 20), (300, 300, 330)])
async def test_how_long_requests_may_take_is_the_members_own(timeout_s: float, least_s: float, most_s: float) -> None:
    router = Router(chat="loaded")
    router.busy = 10**6
    clock = HastyClock()
    begun_s = clock.time_s
    member = CHAT.model_copy(update={"unit_vars": {"drain_timeout_s": timeout_s}})
    async with FakeWeb(router) as web:
        await DRIVER.unload(member, web.port, HTTP, clock)
    assert least_s <= clock.time_s - begun_s <= most_s
    assert router.status["chat"]["value"] == "unloaded"


@pytest.mark.parametrize("models", [{"chat": "unloaded"}, {"other": "loaded"}, {}])
async def test_what_is_not_loaded_is_unloaded_already(models: dict[str, str]) -> None:
    async with FakeWeb(Router(**models)) as web:
        await DRIVER.unload(CHAT, web.port, HTTP, QuickClock())
        assert posts(web) == []


async def test_an_unload_that_never_ends_is_named() -> None:
    router = Router(chat="loaded")
    router.steps = 10_000
    member = CHAT.model_copy(update={"unit_vars": {"stop_timeout_s": 3}})
    async with FakeWeb(router) as web:
        with pytest.raises(Failed) as caught:
            await DRIVER.unload(member, web.port, HTTP, HastyClock())
    assert caught.value.code == "unload-timeout"
    assert caught.value.info.why == "it was still loaded after 23 s"


async def test_sleep_is_unload_and_wake_is_load() -> None:
    router = Router(chat="loaded")
    async with FakeWeb(router) as web:
        strategy, clock = RouterSleep(), QuickClock()
        for _ in range(2):
            await strategy.sleep(CHAT, web.port, HTTP, clock)
        assert router.status["chat"]["value"] == "unloaded"
        for _ in range(2):
            await strategy.wake(CHAT, web.port, HTTP, clock)
        assert router.status["chat"]["value"] == "loaded"


async def test_members_are_read_with_the_processes_of_their_own() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "--alias", "chat"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    router = Router(chat="loaded", slow="loading", idle="sleeping", off="unloaded")
    router.status["bad"] = {"value": "unloaded", "failed": True, "exit_code": 1}
    try:
        async with FakeWeb(router) as web:
            found = await DRIVER.members(HOST, web.port, (child.pid, 2**22 + 1), HTTP)
    finally:
        child.communicate()
    assert (found["chat"].loaded, found["chat"].pid) == (True, child.pid)
    assert (found["slow"].loading, found["slow"].pid) == (True, None)
    assert found["idle"].loaded
    assert (found["off"].configured, found["off"].loaded, found["off"].failed) == (True, False, False)
    assert found["bad"].failed
    assert "exit code 1" in found["bad"].detail


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"value": "loaded"}, "ready"),
        ({"value": "loading"}, "starting"),
        ({"value": "sleeping"}, "ready"),
        ({"value": "unloaded"}, "sleeping"),
        (None, "failed"),
    ],
)
async def test_a_member_is_probed_through_its_router(status: dict[str, Any] | None, state: str) -> None:
    router = Router()
    if status is not None:
        router.status["chat"] = status
    async with FakeWeb(router) as web:
        assert (await DRIVER.probe(CHAT, web.port, HTTP)).state == state
        assert {call.path for call in web.calls} == {"/props"}


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((200, {"status": "ok"}), "ready"),
        (error(503, "Loading model"), "starting"),
        (error(503, "no slot available"), "unhealthy"),
        ((500, "x"), "unhealthy"),
    ],
)
async def test_a_single_model_is_probed_by_its_health(answer: Answer, state: str) -> None:
    for service in (SINGLE, HOST):
        async with FakeWeb(lambda _: answer) as web:
            assert (await DRIVER.probe(service, web.port, HTTP)).state == state


async def test_requests_in_flight_are_counted_without_waking() -> None:
    metrics = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\nllamacpp:n_decode_total 9\n"
    async with FakeWeb(lambda _: (200, metrics)) as web:
        told = await read_activity(CHAT, web.port, HTTP)
        assert told is not None
        assert told.in_flight == 3
        assert web.calls[-1].query == (("model", "chat"), ("autoload", "false"))
    async with FakeWeb(lambda _: error(501, "not supported")) as web:
        assert await read_activity(CHAT, web.port, HTTP) is None


async def test_a_router_that_does_not_list_is_named() -> None:
    async with FakeWeb(lambda _: error(401, "Invalid API Key")) as web:
        with pytest.raises(Failed) as caught:
            await DRIVER.members(HOST, web.port, (), HTTP)
        assert caught.value.code == "router-error"
        assert "Invalid API Key" in caught.value.info.why
        found = await DRIVER.probe(CHAT, web.port, HTTP)
        assert (found.state, "Invalid API Key" in found.detail) == ("unhealthy", True)


async def test_the_use_of_a_model_is_told_by_its_metrics_alone() -> None:
    text = (
        "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n"
        "llamacpp:prompt_tokens_total 70\nllamacpp:tokens_predicted_total 5\n"
    )
    async with FakeWeb(lambda _: (200, text)) as web:
        for service, query in ((CHAT, (("model", "chat"), ("autoload", "false"))), (SINGLE, ())):
            used = await DRIVER.activity(service, web.port, HTTP)
            assert used is not None
            assert (used.in_flight, used.served) == (3, 75)
            assert (str(web.calls[-1]), web.calls[-1].query) == ("GET /metrics", query)
        assert await DRIVER.activity(HOST, web.port, HTTP) is None
        assert len(web.calls) == 2


@pytest.mark.parametrize(
    "answer", [error(400, "model is not loaded"), error(501, "not supported"), (500, "proxy error"), (200, "nothing")]
)
async def test_a_model_that_does_not_tell_its_use_is_not_taken_for_idle(answer: Answer) -> None:
    async with FakeWeb(lambda _: answer) as web:
        assert await DRIVER.activity(CHAT, web.port, HTTP) is None
