"""What llama-server answers. Set GPUMOD_TEST_LLAMA_SERVER (a program) and GPUMOD_TEST_GGUF (a small model) to run
these against the real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

REAL = os.environ.get("GPUMOD_TEST_LLAMA_SERVER")
MODEL = os.environ.get("GPUMOD_TEST_GGUF", "/models/tiny.gguf")
PRESETS = f"""version = 1

[one]
; gpumod: vram_mb=5000
model = {MODEL}
c = 1024
stop-timeout = 1

[two]
; gpumod: vram_mb=7000
model = {MODEL}
ctx-size = 1024
alias = deux

[broken]
model = /nowhere/missing.gguf
"""


@pytest.fixture
def server(box, free_port, http, until):
    """Start a llama-server with arguments; its base URL, once it answers. The process is `box.started[-1]`."""

    def start(*args, ready=True, service="svc", **env):
        port = str(free_port())
        words = ("--host", "127.0.0.1", "--port", port, *args)
        if REAL:
            with (box.folder / f"{service}.log").open("w") as log:
                box.started.append(subprocess.Popen([REAL, *words], stdout=log, stderr=log))
        else:
            box.start("llama-server", *words, service=service, **env)
        process = box.started[-1]
        base = f"http://127.0.0.1:{port}"
        if ready:
            until(lambda: process.poll() is None and http(base, "GET", "/health").status == 200)
        return base

    yield start
    for process in box.started:
        for pid in children(process) if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # a real one may outlive a router that is killed


@pytest.fixture
def presets(tmp_path):
    path = tmp_path / "router.ini"
    path.write_text(PRESETS)
    return path


@pytest.fixture
def router(server, presets):
    return server("--models-preset", str(presets))


@pytest.fixture
def status(http):
    def read(base, name):
        return next(m["status"] for m in http(base, "GET", "/models").json["data"] if m["id"] == name)

    return read


@pytest.fixture
def load(http, until, status):
    def loaded(base, name):
        assert http(base, "POST", "/models/load", {"model": name}).json == {"success": True}
        until(lambda: status(base, name)["value"] == "loaded")

    return loaded


def children(process):
    threads = Path(f"/proc/{process.pid}/task").iterdir()  # the real router starts them from threads of its own
    return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


def complete(http, base, model, tokens=2, query="", **more):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "ignore_eos": True}
    return http(base, "POST", f"/v1/chat/completions{query}", body, **more)


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


def test_a_request_loads_its_model_by_name_or_alias(router, http, status):
    answer = complete(http, router, "deux")
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["role"] == "assistant"
    assert status(router, "two")["value"] == "loaded"
    assert http(router, "GET", "/props?model=one").status == 200  # a trap: this loads it
    assert status(router, "one")["value"] == "loaded"


def test_a_model_that_cannot_be_loaded(router, http, status, until):
    assert http(router, "POST", "/models/load", {"model": "broken"}).json == {"success": True}
    until(lambda: status(router, "broken")["value"] == "unloaded")
    assert (status(router, "broken")["failed"], status(router, "broken")["exit_code"]) == (True, 1)
    answer = complete(http, router, "broken")
    assert answer.status == 500
    assert "failed to load" in answer.json["error"]["message"]
    assert http(router, "GET", "/models?reload=1").status == 200
    assert "failed" not in status(router, "broken")


def test_a_child_that_is_killed_has_failed_and_is_loaded_again(box, router, http, load, status, until):
    load(router, "one")
    (child,) = children(box.started[0])
    os.kill(child, signal.SIGKILL)
    until(lambda: status(router, "one")["value"] == "unloaded")
    assert (status(router, "one")["failed"], status(router, "one")["exit_code"]) == (True, 1)
    assert complete(http, router, "one").status == 200


def test_a_child_does_not_end_on_sigterm(box, router, http, load, status, until):
    load(router, "one")
    (child,) = children(box.started[0])
    complete(http, router, "one")  # a real one is loaded a little before it heeds signals
    os.kill(child, signal.SIGTERM)
    time.sleep(0.5)  # requests meanwhile would keep a real one's connections open
    until(lambda: complete(http, router, "one").status == 500)
    assert "proxy error" in complete(http, router, "one").text
    assert children(box.started[0]) == [child]
    assert status(router, "one")["value"] == "loaded"
    assert http(router, "POST", "/models/unload", {"model": "one"}).json == {"success": True}
    until(lambda: status(router, "one")["value"] == "unloaded")


def test_unloading_with_a_request_in_flight_kills_it(router, http, load, status, until):
    load(router, "one")
    tokens = 900 if REAL else 200_000
    answers = []
    thread = threading.Thread(target=lambda: answers.append(complete(http, router, "one", tokens)))
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
    presets.write_text(PRESETS + "\n[three]\nmodel = /models/three.gguf\n")
    http(router, "GET", "/models?reload=1")
    assert [status(router, name)["value"] for name in ("one", "two", "three")] == ["loaded", "loaded", "unloaded"]
    presets.write_text(PRESETS.replace("c = 1024", "c = 2048").split("[two]")[0])
    http(router, "GET", "/models?reload=1")
    until(lambda: status(router, "one")["value"] == "unloaded")
    until(lambda: "two" not in {model["id"] for model in http(router, "GET", "/models").json["data"]})


def test_models_max_makes_room_or_refuses(server, presets, http, load, status):
    base = server("--models-preset", str(presets), "--models-max", "1")
    load(base, "one")
    load(base, "two")
    assert status(base, "one")["value"] == "unloaded"
    assert complete(http, base, "one").status == 200
    assert status(base, "two")["value"] == "unloaded"


def test_the_router_takes_its_children_with_it(box, router, load, until):
    load(router, "one")
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0


def test_children_end_when_the_router_is_killed(box, router, load, until):
    load(router, "one")
    (child,) = children(box.started[0])
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


def test_one_model(server, http):
    base = server("-m", MODEL, "--alias", "tiny", "-c", "1024")
    (model,) = http(base, "GET", "/v1/models").json["data"]
    assert model["id"] == "tiny"
    assert complete(http, base, "tiny").status == 200
    answer = http(base, "POST", "/completion", {"prompt": "hi", "n_predict": 2})
    assert isinstance(answer.json["content"], str)
    assert http(base, "POST", "/tokenize", {"content": "hi"}).json["tokens"]
    assert http(base, "GET", "/metrics").status == 501
    assert http(base, "GET", "/props").json["is_sleeping"] is False
    assert {"id", "n_ctx", "is_processing"} <= set(http(base, "GET", "/slots").json[0])
    assert http(base, "GET", "/nope").json["error"]["type"] == "not_found_error"


def test_api_keys_leave_health_open(server, http, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    base = server("-m", MODEL, "--api-key-file", str(tmp_path / "keys"), "--metrics")
    assert http(base, "GET", "/health").status == 200
    refused = http(base, "GET", "/props")
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    assert "llamacpp:requests_processing" in http(base, "GET", "/metrics", Authorization="Bearer secret").text


def test_one_model_ends_in_order(server, http, box):
    base = server("-m", MODEL)
    complete(http, base, "tiny")  # a real one is healthy a little before it heeds signals
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--bogus",),
        ("-m", "/nowhere/missing.gguf"),
        ("-c", "many", "-m", MODEL),
        ("-m", MODEL, "--api-key-file", "/nowhere/keys"),
    ],
)
def test_what_it_does_not_start_with(server, box, args):
    server(*args, ready=False)
    assert box.started[0].wait(10) == 1


def test_a_taken_port(server, box):
    base = server("-m", MODEL)
    server("-m", MODEL, "--port", base.rsplit(":", 1)[1], ready=False, service="second")
    assert box.started[1].wait(10) == 1
    assert "couldn't bind HTTP server socket" in box.log("second")


def test_an_idle_model_sleeps_and_work_wakes_it(server, tmp_path, http, load, status, until):
    path = tmp_path / "idle.ini"
    path.write_text(f"[m]\nmodel = {MODEL}\nsleep-idle-seconds = 1\n")
    base = server("--models-preset", str(path))
    load(base, "m")
    until(lambda: status(base, "m")["value"] == "sleeping")
    assert http(base, "POST", "/models/load", {"model": "m"}).status == 400
    assert http(base, "GET", "/props?model=m").json["is_sleeping"] is True
    assert status(base, "m")["value"] == "sleeping"
    assert http(base, "GET", "/slots?model=m").status == 200  # a trap: this wakes it
    until(lambda: status(base, "m")["value"] == "loaded")
