"""What llama-server answers, of a stand-in; of the real one where GPUMOD_TEST_LLAMA_SERVER names it (see conftest)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest


def test_the_router_lists_what_is_configured(router, http):
    assert http(router, "GET", "/health").json == {"status": "ok"}
    listed = http(router, "GET", "/models").json
    assert listed["object"] == "list"
    models = {model["id"]: model for model in listed["data"]}
    assert set(models) >= {"one", "two", "broken"}
    one = models["one"]
    assert (one["object"], one["owned_by"], one["source"], one["can_remove"]) == ("model", "llamacpp", "preset", False)
    assert one["status"]["value"] == "unloaded"
    assert "deux" in models["two"]["aliases"]
    assert http(router, "GET", "/props").json["role"] == "router"
    assert http(router, "GET", "/slots").status == 400


def test_loading_and_unloading_take_their_time(router, http, load, status, until):
    load(router, "one")
    entry = next(m for m in http(router, "GET", "/v1/models").json["data"] if m["id"] == "one")
    assert entry["meta"]["n_ctx"] == 1024
    assert "--alias" in entry["status"]["args"]
    again = http(router, "POST", "/models/load", {"model": "one"})
    assert (again.status, again.json["error"]["message"]) == (400, "model is already running")
    assert http(router, "POST", "/models/unload", {"model": "one"}).json == {"success": True}
    until(lambda: status(router, "one")["value"] == "unloaded")
    assert not status(router, "one").get("failed")
    refused = http(router, "POST", "/models/unload", {"model": "one"})
    assert (refused.status, refused.json["error"]["message"]) == (400, "model is not running")


def test_what_the_router_refuses(router, http):
    cases = [
        ("POST", "/models/load", {"model": "nope"}, 404, "File Not Found"),
        ("POST", "/models/load", {}, 404, "File Not Found"),
        ("GET", "/models/load", None, 404, "File Not Found"),
        ("POST", "/models/unload", {"model": "nope"}, 400, "model is not found"),
        ("POST", "/v1/completions", {"model": "nope", "prompt": "x"}, 400, "model 'nope' not found"),
        ("POST", "/v1/completions?autoload=false", {"model": "one", "prompt": "x"}, 400, "model is not loaded"),
    ]
    for method, path, body, code, message in cases:
        answer = http(router, method, path, body)
        assert (answer.status, answer.json["error"]["code"], answer.json["error"]["message"]) == (code, code, message)
    assert "model name is missing" in http(router, "POST", "/v1/completions", {"prompt": "x"}).text
    assert http(router, "POST", "/models/load", b"{").status == 500


def test_a_request_loads_its_model_by_name_or_alias(router, http, status, complete):
    answer = complete(router, "deux")
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["role"] == "assistant"
    assert status(router, "two")["value"] == "loaded"
    assert http(router, "GET", "/props?model=one").status == 200  # a trap: this loads it
    assert status(router, "one")["value"] == "loaded"


def test_a_model_that_cannot_be_loaded(router, http, status, until, complete):
    assert http(router, "POST", "/models/load", {"model": "broken"}).json == {"success": True}
    until(lambda: status(router, "broken")["value"] == "unloaded")
    assert (status(router, "broken")["failed"], status(router, "broken")["exit_code"]) == (True, 1)
    answer = complete(router, "broken")
    assert answer.status == 500
    assert "failed to load" in answer.json["error"]["message"]
    assert http(router, "GET", "/models?reload=1").status == 200
    assert "failed" not in status(router, "broken")


def test_a_child_that_is_killed_has_failed_and_is_loaded_again(router, load, status, until, complete, children):
    load(router, "one")
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    until(lambda: status(router, "one")["value"] == "unloaded")
    assert (status(router, "one")["failed"], status(router, "one")["exit_code"]) == (True, 1)
    assert complete(router, "one").status == 200


def test_a_child_does_not_end_on_sigterm(router, http, load, status, until, complete, children):
    load(router, "one")
    (child,) = children()
    complete(router, "one")  # a real one is loaded a little before it heeds signals
    os.kill(child, signal.SIGTERM)
    time.sleep(0.5)  # requests meanwhile would keep a real one's connections open
    until(lambda: complete(router, "one").status == 500)
    assert "proxy error" in complete(router, "one").text
    assert children() == [child]
    assert status(router, "one")["value"] == "loaded"
    assert http(router, "POST", "/models/unload", {"model": "one"}).json == {"success": True}
    until(lambda: status(router, "one")["value"] == "unloaded")


def test_unloading_with_a_request_in_flight_kills_it(router, http, load, status, until, complete, many_tokens):
    load(router, "one")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(complete(router, "one", many_tokens)))
    thread.start()
    until(lambda: any(slot["is_processing"] for slot in http(router, "GET", "/slots?model=one").json))
    begun = time.monotonic()
    assert http(router, "POST", "/models/unload", {"model": "one"}).json == {"success": True}
    assert status(router, "one")["value"] == "loaded"
    assert http(router, "POST", "/models/load", {"model": "one"}).status == 400
    until(lambda: status(router, "one")["value"] == "unloaded")
    assert 0.8 < time.monotonic() - begun < 5
    thread.join(5)
    assert (answers[0].status, "proxy error" in answers[0].text) == (500, True)
    assert status(router, "one")["failed"] is True


def test_reading_the_presets_again_unloads_what_changed_or_went(router, http, presets, load, status, until):
    load(router, "one")
    load(router, "two")
    presets.write_text(presets.read_text() + "\n[three]\nmodel = /models/three.gguf\n")
    http(router, "GET", "/models?reload=1")
    assert [status(router, name)["value"] for name in ("one", "two", "three")] == ["loaded", "loaded", "unloaded"]
    presets.write_text(presets.read_text().replace("c = 1024", "c = 2048").split("[two]")[0])
    http(router, "GET", "/models?reload=1")
    until(lambda: status(router, "one")["value"] == "unloaded")
    until(lambda: "two" not in {model["id"] for model in http(router, "GET", "/models").json["data"]})


def test_models_max_makes_room_or_refuses(server, presets, load, status, complete):
    base = server("--models-preset", str(presets), "--models-max", "1")
    load(base, "one")
    load(base, "two")
    assert status(base, "one")["value"] == "unloaded"
    assert complete(base, "one").status == 200
    assert status(base, "two")["value"] == "unloaded"


def test_the_router_takes_its_children_with_it(box, router, load):
    load(router, "one")
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0


def test_children_end_when_the_router_is_killed(box, router, load, until, children):
    load(router, "one")
    (child,) = children()
    box.started[0].kill()
    box.started[0].wait()
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[m]\nno-mmap = true\n", "option 'no-mmap' not recognized in preset 'm'"),
        ("[m]\nmodel\n", ""),
        ("[m]\nmodel = a\nalias = x\n[n]\nmodel = b\nalias = x\n", ""),
    ],
)
def test_a_bad_preset_file_kills_the_router(server, box, tmp_path, text, words):
    path = tmp_path / "bad.ini"
    path.write_text(text)
    server("--models-preset", str(path), ready=False)
    assert box.started[0].wait(10) == 1
    assert words in box.log()


def test_what_the_router_is_given_wins(server, presets, http):
    base = server("--models-preset", str(presets), "-c", "512")
    one = next(model for model in http(base, "GET", "/models").json["data"] if model["id"] == "one")
    words = one["status"]["args"]
    assert words[words.index("--ctx-size") + 1] == "512"


def test_presets_know_comments_and_repeated_sections(server, tmp_path, http):
    path = tmp_path / "odd.ini"
    path.write_text("[m]\nmodel = a\nalias = first\n[m]\nmodel = b ; gone\nalias = q#z\n")
    base = server("--models-preset", str(path))
    (model,) = [model for model in http(base, "GET", "/models").json["data"] if model["id"] == "m"]
    assert model["aliases"] == ["q"]


def test_one_model(server, http, complete, model_file):
    base = server("-m", model_file, "--alias", "tiny", "-c", "1024")
    (model,) = http(base, "GET", "/v1/models").json["data"]
    assert model["id"] == "tiny"
    assert complete(base, "tiny").status == 200
    answer = http(base, "POST", "/completion", {"prompt": "hi", "n_predict": 2})
    assert isinstance(answer.json["content"], str)
    assert http(base, "POST", "/tokenize", {"content": "hi"}).json["tokens"]
    assert http(base, "GET", "/metrics").status == 501
    assert http(base, "GET", "/props").json["is_sleeping"] is False
    assert {"id", "n_ctx", "is_processing"} <= set(http(base, "GET", "/slots").json[0])
    assert http(base, "GET", "/nope").json["error"]["type"] == "not_found_error"


def test_api_keys_leave_health_open(server, http, tmp_path, model_file):
    (tmp_path / "keys").write_text("secret\n")
    base = server("-m", model_file, "--api-key-file", str(tmp_path / "keys"), "--metrics")
    assert http(base, "GET", "/health").status == 200
    refused = http(base, "GET", "/props")
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    assert "llamacpp:requests_processing" in http(base, "GET", "/metrics", Authorization="Bearer secret").text


def test_one_model_ends_in_order(server, box, complete, model_file):
    base = server("-m", model_file)
    complete(base, "tiny")  # a real one is healthy a little before it heeds signals
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--bogus",),
        ("-m", "/nowhere/missing.gguf"),
        ("-c", "many", "-m", "{model}"),
        ("-m", "{model}", "--api-key-file", "/nowhere/keys"),
    ],
)
def test_what_it_does_not_start_with(server, box, args, model_file):
    server(*(word.format(model=model_file) for word in args), ready=False)
    assert box.started[0].wait(10) == 1


def test_a_taken_port(server, box, model_file):
    base = server("-m", model_file)
    server("-m", model_file, "--port", base.rsplit(":", 1)[1], ready=False, service="second")
    assert box.started[1].wait(10) == 1
    assert "couldn't bind HTTP server socket" in box.log("second")


def test_an_idle_model_sleeps_and_work_wakes_it(server, tmp_path, http, load, status, until, model_file):
    path = tmp_path / "idle.ini"
    path.write_text(f"[m]\nmodel = {model_file}\nsleep-idle-seconds = 1\n")
    base = server("--models-preset", str(path))
    load(base, "m")
    until(lambda: status(base, "m")["value"] == "sleeping")
    assert http(base, "POST", "/models/load", {"model": "m"}).status == 400
    assert http(base, "GET", "/props?model=m").json["is_sleeping"] is True
    assert status(base, "m")["value"] == "sleeping"
    assert http(base, "GET", "/slots?model=m").status == 200  # a trap: this wakes it
    until(lambda: status(base, "m")["value"] == "loaded")
