"""What a vLLM server answers. Set GPUMOD_TEST_VLLM_URL to ask a real one (in development mode) instead."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request

import pytest

MANY = 600 if "GPUMOD_TEST_VLLM_URL" in os.environ else 30_000
"""Tokens whose generation lasts long enough to be looked at, of a real tiny model and of the stand-in."""


@pytest.fixture
def base(request):
    return os.environ.get("GPUMOD_TEST_VLLM_URL") or request.getfixturevalue("vllm")("--enable-sleep-mode")


@pytest.fixture
def model(base, http):
    return http(base, "GET", "/v1/models").json["data"][0]["id"]


def test_health_is_empty_and_models_are_listed(base, http):
    assert (http(base, "GET", "/health").status, http(base, "GET", "/health").text) == (200, "")
    (entry,) = http(base, "GET", "/v1/models").json["data"]
    assert (entry["object"], entry["owned_by"]) == ("model", "vllm")
    assert entry["max_model_len"] > 0
    assert "version" in http(base, "GET", "/version").json


def test_completions(base, http, model):
    answer = http(base, "POST", "/v1/completions", {"model": model, "prompt": "hello", "max_tokens": 3})
    assert answer.status == 200
    assert answer.json["choices"][0]["finish_reason"] in ("length", "stop")
    assert answer.json["usage"]["completion_tokens"] <= 3


def test_errors_have_vllms_envelope(base, http, model):
    ask = "/v1/completions"
    cases = [
        (http(base, "POST", ask, {"model": "nope", "prompt": "x"}), 404, "NotFoundError", "model"),
        (http(base, "POST", ask, {"model": model}), 400, "BadRequestError", "prompt"),
        (
            http(base, "POST", ask, {"model": model, "prompt": "x", "max_tokens": 0}),
            400,
            "BadRequestError",
            "max_tokens",
        ),
        (http(base, "POST", "/sleep?level=9"), 400, "Bad Request", None),
        (http(base, "POST", "/sleep?mode=xx"), 400, "Bad Request", None),
        (http(base, "POST", "/collective_rpc", b"{"), 400, "Bad Request", None),
        (http(base, "POST", "/collective_rpc", {}), 400, None, None),
    ]
    for answer, status, kind, param in cases:
        assert answer.status == status
        assert answer.json["error"]["code"] == status
        assert kind in (None, answer.json["error"]["type"])
        assert param in (None, answer.json["error"]["param"])


def test_what_is_no_route_has_the_web_frameworks_envelope(base, http):
    assert http(base, "GET", "/nope").json == {"detail": "Not Found"}
    assert http(base, "GET", "/sleep").json == {"detail": "Method Not Allowed"}
    assert [http(base, "GET", path).status for path in ("/nope", "/sleep")] == [404, 405]


def test_a_body_must_be_said_to_be_json(base, model):
    body = json.dumps({"model": model, "prompt": "x", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{base}/v1/completions", body, {"Content-Type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 400
    refused.value.close()


def test_metrics_tell_the_level_of_a_sleeper(base, http):
    def level():
        found = re.findall(r'sleep_state="(\w+)"\} 1\.0', http(base, "GET", "/metrics").text)
        return found[0] if found else ""

    assert level() == "awake"
    for asked, told in ((1, "weights_offloaded"), (2, "discard_all"), (0, "")):
        http(base, "POST", f"/sleep?level={asked}")
        assert level() == told
        http(base, "POST", "/wake_up")
        assert level() == "awake"


def test_sleep_and_wake(base, http):
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": False}
    for _ in range(2):
        assert http(base, "POST", "/sleep?level=1").json == {"status": "sleeping", "level": 1}
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": True}
    assert http(base, "GET", "/health").status == 200
    assert http(base, "GET", "/v1/models").status == 200
    assert http(base, "POST", "/wake_up?tags=weights").json == {"status": "sleeping", "tags": ["weights"]}
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": True}
    assert http(base, "POST", "/wake_up?tags=kv_cache").json["status"] == "awake"
    assert http(base, "POST", "/wake_up").json == {"status": "awake", "tags": None}
    assert http(base, "POST", "/wake_up?tags=bogus").json["status"] == "awake"


def test_the_order_of_an_l2_wake(base, http, model):
    http(base, "POST", "/sleep?level=2")
    http(base, "POST", "/wake_up?tags=weights")
    assert len(http(base, "POST", "/collective_rpc", {"method": "reload_weights"}).json["results"]) >= 1
    assert http(base, "POST", "/wake_up?tags=kv_cache").json["status"] == "awake"
    assert http(base, "POST", "/reset_prefix_cache").json == {"success": True}
    answer = http(base, "POST", "/v1/completions", {"model": model, "prompt": "hello", "max_tokens": 8})
    assert set(answer.json["choices"][0]["text"]) != {"!"}


def test_a_request_to_a_sleeper_waits_and_is_counted(base, http, model):
    http(base, "POST", "/sleep?level=1")
    body = {"model": model, "prompt": "hello", "max_tokens": 2}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(http(base, "POST", "/v1/completions", body)))
    thread.start()
    time.sleep(0.2)
    assert not answers
    with pytest.raises(TimeoutError):
        http(base, "POST", "/v1/completions", body, timeout_s=0.2)
    http(base, "POST", "/wake_up")
    thread.join(10)
    assert answers[0].status == 200


def test_metrics_names(base, http):
    text = http(base, "GET", "/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "engine_sleep_state"):
        assert f"vllm:{name}{{" in text
    assert "vllm:request_success_total{" in text


def test_a_sleep_that_waits_says_at_once_that_it_sleeps(base, http, until, model):
    body = {"model": model, "prompt": "hello", "max_tokens": MANY, "ignore_eos": True}
    answers = {}

    def post(path, body=None):
        answers[path] = http(base, "POST", path, body, timeout_s=30)

    threads = [threading.Thread(target=post, args=("/v1/completions", body))]
    threads[0].start()
    until(lambda: re.search(r"vllm:num_requests_running\{.*\} 1\.0", http(base, "GET", "/metrics").text))
    threads.append(threading.Thread(target=post, args=("/sleep?level=1&mode=wait",)))
    threads[1].start()
    until(lambda: http(base, "GET", "/is_sleeping").json == {"is_sleeping": True})
    assert re.search(r'engine_sleep_state\{.*sleep_state="awake".*\} 1\.0', http(base, "GET", "/metrics").text)
    assert not answers, "it still works, and holds its memory"
    for thread in threads:
        thread.join(30)
    assert answers["/v1/completions"].json["usage"]["completion_tokens"] == MANY
    assert answers["/sleep?level=1&mode=wait"].status == 200
    http(base, "POST", "/wake_up")


@pytest.mark.parametrize("mode", ["abort", "wait", "keep"])
def test_requests_in_flight_when_it_falls_asleep(base, http, until, model, mode):
    body = {"model": model, "prompt": "hello", "max_tokens": MANY, "ignore_eos": True}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(http(base, "POST", "/v1/completions", body, timeout_s=30)))
    thread.start()
    until(lambda: re.search(r"vllm:num_requests_running\{.*\} 1\.0", http(base, "GET", "/metrics").text))
    http(base, "POST", f"/sleep?level=1&mode={mode}", timeout_s=30)
    if mode == "abort":
        thread.join(10)
        assert answers[0].json["choices"][0]["finish_reason"] == "abort"
        assert answers[0].json["usage"]["completion_tokens"] < MANY
    elif mode == "wait":
        thread.join(30)
        assert answers[0].json["usage"]["completion_tokens"] == MANY
    else:
        assert not answers
        http(base, "POST", "/wake_up")
        thread.join(30)
        assert answers[0].json["usage"]["completion_tokens"] == MANY
    http(base, "POST", "/wake_up")
