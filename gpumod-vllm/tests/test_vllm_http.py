"""Probing, sleeping and waking against a server that answers as vLLM does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Failed, Service
from gpumod.testing.web import Answer, Call, FakeWeb, NoAnswer, QuickClock
from gpumod_vllm.activity import activity_in
from gpumod_vllm.canary import makes_sense
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.sleep import L1Sleep, L2Sleep, drain

DRIVER, HTTP = VllmDriver(), LoopbackHttp()
METRICS = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
"""


class Engine:
    """vLLM's sleep protocol, with tags and weights that have to be reloaded after level 2."""

    def __init__(self, **faults: Any) -> None:
        self.asleep: set[str] = set()
        self.weights = True
        self.faults: dict[str, Answer | None] = faults.pop("answers", {})
        self.kind = faults.pop("kind", "generate")
        self.empty = faults.pop("empty", False)
        self.ignores_sleep = faults.pop("ignores_sleep", False)
        self.level: int | None = None  # as its metrics tell it: 0 is awake or paused, None one that does not tell
        self.running: list[tuple[int, int]] = []  # requests in flight and ended, look by look

    def __call__(self, call: Call) -> Answer | None:
        if str(call) in self.faults:
            return self.faults[str(call)]
        if str(call) == "GET /metrics":
            return 200, self.metrics()
        fixed: dict[str, Answer] = {
            "GET /health": (200, b""),
            "GET /is_sleeping": (200, {"is_sleeping": bool(self.asleep)}),
            "POST /reset_prefix_cache": (200, {"success": True}),
        }
        if str(call) in fixed:
            return fixed[str(call)]
        return self.sleeps(call) or self.serves(call) or (400 if "/v1/" in call.path else 404, {"error": "no"})

    def metrics(self) -> str:
        running, ended = self.running.pop(0) if self.running else (0, 9)
        counted = f"vllm:num_requests_running{{}} {running}.0\nvllm:request_success_total{{}} {ended}.0\n"
        return counted + state_metrics(self.level if self.asleep else 0)

    def sleeps(self, call: Call) -> Answer | None:
        query = dict(call.query)
        if str(call) == "POST /sleep":
            if not self.ignores_sleep:
                self.asleep = {"weights", "kv_cache"}
            self.weights, self.level = query["level"] != "2", int(query["level"])
            return 200, b"" if self.empty else {"status": "sleeping", "level": int(query["level"])}
        if str(call) == "POST /wake_up":
            self.asleep -= {query["tags"]} if "tags" in query else {"weights", "kv_cache"}
            return 200, b"" if self.empty else {"status": "sleeping" if self.asleep else "awake"}
        if str(call) == "POST /collective_rpc":
            self.weights = call.json_body == {"method": "reload_weights"} and "weights" not in self.asleep
            return 200, {"results": [None]}
        return None

    def serves(self, call: Call) -> Answer | None:
        answers: dict[tuple[str, str], Any] = {
            ("generate", "/v1/completions"): {"choices": [{"text": " four, five" if self.weights else "!!!!"}]},
            ("pooling", "/v1/embeddings"): {"data": [{"embedding": [0.1, -0.2] if self.weights else [0.0, 0.0]}]},
            ("rerank", "/rerank"): {"results": [{"relevance_score": 0.5}]},
        }
        body = answers.get((self.kind, call.path))
        return None if body is None else (200, body)


def state_metrics(level: int | None) -> str:
    names = {} if level is None else {0: "awake", 1: "weights_offloaded", 2: "discard_all"}
    line = 'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="{}"}} {}\n'
    return "".join(line.format(name, float(number == level)) for number, name in names.items())


def a_service(level: str = "l1", **options: Any) -> Service:
    return Service(id="m", driver="vllm", port=8001, vram_mb=9, model_id="org/m", sleep_mode=level, unit_vars=options)


async def failure(level: str, verb: str, engine: Engine, **options: Any) -> Failed:
    strategy = L1Sleep() if level == "l1" else L2Sleep()
    act = strategy.sleep if verb == "sleep" else strategy.wake
    async with FakeWeb(engine) as web:
        with pytest.raises(Failed) as caught:
            await act(a_service(level, **options), web.port, HTTP, QuickClock())
    return caught.value


async def test_the_probe_tells_ready_from_sleeping() -> None:
    engine = Engine()
    async with FakeWeb(engine) as web:
        assert (await DRIVER.probe(a_service(), web.port, HTTP)).state == "ready"
        engine.asleep = {"weights"}
        assert (await DRIVER.probe(a_service(), web.port, HTTP)).state == "sleeping"
        assert (await DRIVER.probe(a_service("none"), web.port, HTTP)).state == "ready"
        # A sleeping engine would leave a completion waiting for ever.
        assert {call.method for call in web.calls} == {"GET"}


@pytest.mark.parametrize(
    ("answers", "state", "says"),
    [
        ({"GET /health": (503, b"")}, "failed", "dead"),
        ({"GET /health": (500, b"")}, "unhealthy", "500"),
        ({"GET /is_sleeping": (404, b"")}, "ready", "VLLM_SERVER_DEV_MODE"),
        ({"GET /is_sleeping": (500, "boom")}, "unhealthy", "boom"),
        ({"GET /is_sleeping": (200, "not json")}, "unhealthy", "not json"),
    ],
)
async def test_the_probe_says_what_is_wrong(answers: dict[str, Answer | None], state: str, says: str) -> None:
    async with FakeWeb(Engine(answers=answers)) as web:
        found = await DRIVER.probe(a_service(), web.port, HTTP)
    assert found.state == state
    assert says in found.detail


@pytest.mark.parametrize(
    ("kind", "state", "says"),
    [
        ("refused", "starting", "not listening"),
        ("timeout", "unhealthy", "no answer in 2 s"),
        ("protocol", "unhealthy", "protocol"),
    ],
)
async def test_a_port_that_does_not_answer_is_no_traceback(kind: Any, state: str, says: str) -> None:
    found = await DRIVER.probe(a_service(), 8001, NoAnswer(kind))
    assert found.state == state
    assert says in found.detail
    with pytest.raises(Failed) as caught:
        await L1Sleep().sleep(a_service(), 8001, NoAnswer(kind), QuickClock())
    assert caught.value.code == ("sleep-timeout" if kind == "timeout" else "sleep-failed")


@pytest.mark.parametrize("empty", [False, True])
async def test_level_one_sleeps_and_wakes_once(empty: bool) -> None:
    engine = Engine(empty=empty)
    async with FakeWeb(engine) as web:
        strategy, clock = L1Sleep(), QuickClock()
        for _ in range(2):
            await strategy.sleep(a_service(), web.port, HTTP, clock)
        assert engine.asleep
        for _ in range(2):
            await strategy.wake(a_service(), web.port, HTTP, clock)
        assert not engine.asleep
        assert [str(c) for c in web.calls if c.method == "POST"] == ["POST /sleep", "POST /wake_up"]
        (sleep,) = [c for c in web.calls if c.path == "/sleep"]
        assert sleep.query == (("level", "1"), ("mode", "wait"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("generate", {}), ("pooling", {"runner": "pooling"}), ("pooling", {}), ("rerank", {"convert": "classify"})],
)
async def test_level_two_wakes_in_its_order_and_asks_a_canary(kind: str, options: dict[str, Any]) -> None:
    engine = Engine(kind=kind)
    async with FakeWeb(engine) as web:
        strategy, clock, service = L2Sleep(), QuickClock(), a_service("l2", **options)
        await strategy.sleep(service, web.port, HTTP, clock)
        assert not engine.weights
        web.calls.clear()
        await strategy.wake(service, web.port, HTTP, clock)
        posts = [(c.path, dict(c.query).get("tags")) for c in web.calls if c.method == "POST"]
        assert posts[:4] == [
            ("/wake_up", "weights"),
            ("/collective_rpc", None),
            ("/wake_up", "kv_cache"),
            ("/reset_prefix_cache", None),
        ]
        assert web.calls[-1].json_body["model"] == "org/m"


WAKE_2 = ["/wake_up weights", "/collective_rpc", "/wake_up kv_cache", "/reset_prefix_cache", "/v1/completions"]


@pytest.mark.parametrize(
    ("was", "verb", "wanted", "posts"),
    [
        (1, "sleep", "l1", []),
        (1, "sleep", "l2", ["/wake_up", "/sleep 2"]),
        (2, "sleep", "l1", [*WAKE_2, "/sleep 1"]),
        (2, "wake", "l1", WAKE_2),
        (1, "wake", "l2", ["/wake_up"]),
        (None, "wake", "l2", WAKE_2),
        (None, "sleep", "l2", []),
        (0, "wake", "l2", WAKE_2),
        (0, "sleep", "l1", ["/sleep 1"]),
        (0, "sleep", "l2", ["/sleep 2"]),
    ],
)
async def test_another_level_is_reached_and_left_as_it_must_be(
    was: int | None, verb: str, wanted: str, posts: list[str]
) -> None:
    """A second call to sleep would do nothing, and a plain wake from level 2 brings garbage."""
    engine = Engine()
    engine.asleep, engine.level, engine.weights = {"weights", "kv_cache"}, was, was == 1
    strategy = L1Sleep() if wanted == "l1" else L2Sleep()
    async with FakeWeb(engine) as web:
        act = strategy.sleep if verb == "sleep" else strategy.wake
        await act(a_service(wanted), web.port, HTTP, QuickClock())
    said = [(call.path, [value for key, value in call.query if key in ("tags", "level")]) for call in web.calls[1:]]
    done = [" ".join((path, *values)) for path, values in said if path not in ("/is_sleeping", "/metrics")]
    assert done == posts
    assert bool(engine.asleep) is (verb == "sleep")


async def test_one_that_is_only_paused_is_not_woken() -> None:
    """What was asked of it comes about all the same when its requests end."""
    engine = Engine()
    engine.asleep, engine.level, engine.running = {"weights", "kv_cache"}, 0, [(1, 0)] * 9
    error = await failure("l1", "wake", engine)
    assert (error.code, "paused" in error.info.why) == ("wake-timeout", True)
    assert engine.asleep, "and is told nothing"


async def test_what_waits_behind_a_pause_does_not_keep_it_from_sleeping() -> None:
    engine = Engine()
    engine.asleep, engine.level, engine.running = {"weights", "kv_cache"}, 0, [(3, 0)] * 1000
    async with FakeWeb(engine) as web:
        await L2Sleep().sleep(a_service("l2", sleep_timeout_s=0.2), web.port, HTTP, QuickClock())
    assert (engine.level, engine.weights) == (2, False)


async def test_a_wake_without_weights_is_found_by_the_canary() -> None:
    for kind in ("generate", "pooling"):
        engine = Engine(kind=kind, answers={"POST /collective_rpc": (200, {"results": [None]})})
        engine.asleep, engine.weights = {"weights", "kv_cache"}, False
        assert (await failure("l2", "wake", engine)).code == "wake-garbage"


@pytest.mark.parametrize(
    ("level", "verb", "answers", "code", "says"),
    [
        ("l1", "sleep", {"GET /is_sleeping": (404, b"")}, "sleep-not-enabled", "VLLM_SERVER_DEV_MODE"),
        ("l1", "sleep", {"POST /sleep": (404, b"")}, "sleep-not-enabled", "VLLM_SERVER_DEV_MODE"),
        ("l1", "sleep", {"POST /sleep": (500, "out of host memory")}, "sleep-failed", "out of host memory"),
        ("l1", "sleep", {"POST /sleep": None}, "sleep-timeout", "0.2 s"),
        ("l1", "sleep", {"GET /is_sleeping": (200, [])}, "sleep-failed", "is_sleeping"),
        ("l1", "wake", {"POST /wake_up": (500, "CUDA out of memory")}, "wake-failed", "CUDA out of memory"),
        ("l1", "wake", {"POST /wake_up": None}, "wake-timeout", "0.2 s"),
        ("l1", "wake", {"POST /wake_up": (200, {"status": "sleeping"})}, "wake-failed", "sleeping"),
        ("l1", "wake", {"POST /wake_up": (200, b"")}, "wake-failed", "asleep"),
        ("l2", "wake", {"POST /collective_rpc": (500, "NotImplementedError")}, "wake-failed", "NotImplementedError"),
        ("l2", "wake", {"POST /v1/completions": (500, "dead")}, "wake-garbage", "dead"),
        ("l2", "wake", {"POST /v1/completions": (404, b"")}, "wake-garbage", "nothing could be checked"),
    ],
)
async def test_every_failure_has_its_name(
    level: str, verb: str, answers: dict[str, Answer | None], code: str, says: str
) -> None:
    engine = Engine(answers=answers)
    engine.asleep = {"weights", "kv_cache"} if verb == "wake" else set()
    error = await failure(level, verb, engine, sleep_timeout_s=0.2, wake_timeout_s=0.2)
    assert error.code == code
    assert says in error.info.why + error.info.hint
    assert "m " in error.info.message


async def test_what_is_in_flight_is_waited_for_before_it_is_told_to_sleep() -> None:
    engine = Engine()
    engine.running = [(2, 5), (1, 6), (1, 9)]  # then none
    async with FakeWeb(engine) as web:
        await L1Sleep().sleep(a_service(), web.port, HTTP, QuickClock())
        said = [str(call) for call in web.calls]
    assert said == ["GET /is_sleeping", *["GET /metrics"] * 4, "POST /sleep", "GET /is_sleeping"]
    assert engine.asleep


async def test_one_that_stays_busy_is_never_told_to_sleep() -> None:
    engine = Engine()
    engine.running = [(3, ended) for ended in range(1000)]  # a long one in a stream of short ones
    error = await failure("l2", "sleep", engine, sleep_timeout_s=0.2)
    assert (error.code, error.info.why) == ("busy", "3 requests were still in flight after 0.2 s")
    assert not engine.asleep
    with pytest.raises(Failed) as caught:
        await drain(a_service(), 8001, NoAnswer("timeout"), QuickClock(), 0.2)
    assert (caught.value.code, caught.value.info.why) == ("sleep-timeout", "/metrics did not answer in 0.2 s")


async def test_one_that_counts_no_requests_is_told_to_sleep() -> None:
    for silent in ((200, "# --disable-log-stats\n"), (404, b"")):
        engine = Engine(answers={"GET /metrics": silent})
        async with FakeWeb(engine) as web:
            await L1Sleep().sleep(a_service(), web.port, HTTP, QuickClock())
        assert engine.asleep


async def test_an_engine_that_only_says_it_sleeps_is_not_believed() -> None:
    error = await failure("l1", "sleep", Engine(ignores_sleep=True))
    assert error.code == "sleep-failed"
    assert "awake" in error.info.why


@pytest.mark.parametrize(
    ("answer", "sense"),
    [
        ({"choices": [{"text": " four"}]}, True),
        ({"choices": [{"text": ""}]}, True),
        ({"choices": [{"text": "4444"}]}, True),
        ({"choices": [{"text": "!!!!"}]}, False),
        ({"choices": [{"text": "! ! ! !"}]}, False),
        ({"choices": []}, False),
        ({"choices": [{}]}, False),
        ({"data": [{"embedding": [0.0, 0.0]}]}, False),
        ({"data": [{"embedding": [0.5, None]}]}, False),
        ({"results": [{"relevance_score": 0}]}, True),
        ({"results": [{"relevance_score": None}]}, False),
        ({}, False),
        ([], False),
        (None, False),
    ],
)
def test_garbage_is_recognised(answer: Any, sense: bool) -> None:
    assert makes_sense(answer) is sense


def test_what_a_sleeper_keeps() -> None:
    service = a_service()
    assert L1Sleep().residue_mb(service, 9000) == L2Sleep().residue_mb(service, 9000) == 1100
    assert L1Sleep().residue_mb(service, 800) == 800
    assert (L1Sleep().ram_mb(service, 9000), L2Sleep().ram_mb(service, 9000)) == (9000, 0)


async def test_the_activity_is_read_from_the_metrics_alone() -> None:
    engine = Engine()
    counted = METRICS + 'vllm:request_success_total{finished_reason="stop"} 5.0\nvllm:generation_tokens_total{} 40.0\n'
    engine.faults = {"GET /metrics": (200, counted)}
    async with FakeWeb(engine) as web:
        found = await DRIVER.activity(a_service(), web.port, HTTP)
        assert found is not None
        assert (found.in_flight, found.served) == (3, 45.0)
        assert [str(call) for call in web.calls] == ["GET /metrics"]
        for silent in ((200, "# --disable-log-stats\n"), (404, b""), (500, "boom"), (200, "\x00 nonsense")):
            engine.faults = {"GET /metrics": silent}
            assert await DRIVER.activity(a_service(), web.port, HTTP) is None


@given(st.text(max_size=300))
def test_whatever_metrics_say_is_an_activity_or_none(text: str) -> None:
    found = activity_in(text)
    assert found is None or found.in_flight >= 0
