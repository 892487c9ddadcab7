"""What surprises in a llama.cpp router, of a stand-in; of the real one where GPUMOD_TEST_LLAMA_SERVER names it."""

from __future__ import annotations

import http.client as http_client
import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def in_background(act):
    """Run `act` in a thread; its result is the list's only item."""
    found = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    return thread, found


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


@pytest.mark.parametrize("path", ["/slots", "/props", "/metrics"])
def test_a_look_at_a_model_loads_it_unless_it_may_not(router, http, status, path):
    held_back = http(router, "GET", f"{path}?model=one&autoload=false")
    assert (held_back.status, held_back.json["error"]["message"]) == (400, "model is not loaded")
    assert status(router, "one")["value"] == "unloaded"
    http(router, "GET", f"{path}?model=one")
    assert status(router, "one")["value"] == "loaded"


def test_health_is_the_routers_own_whatever_model_is_named(router, http, status):
    assert http(router, "GET", "/health?model=one").json == {"status": "ok"}
    assert http(router, "GET", "/health?model=broken").json == {"status": "ok"}
    assert status(router, "one")["value"] == "unloaded"


def test_without_autoload_only_who_asks_for_it_loads(server, presets, status, complete):
    base = server("--models-preset", str(presets), "--models-max", "0", "--no-models-autoload")
    refused = complete(base, "one")
    assert (refused.status, refused.json["error"]["message"]) == (400, "model is not loaded")
    assert complete(base, "one", query="?autoload=true").status == 200
    assert status(base, "one")["value"] == "loaded"


def test_a_request_to_one_that_is_stopping_loads_it_again(router, http, load, status, until, complete, many_tokens):
    load(router, "one")
    busy, answers = in_background(lambda: complete(router, "one", many_tokens))
    until(lambda: any(slot["is_processing"] for slot in http(router, "GET", "/slots?model=one").json))
    http(router, "POST", "/models/unload", {"model": "one"})
    begun = time.monotonic()
    assert complete(router, "one").status == 200
    assert time.monotonic() - begun > 0.5  # it waited until the other was killed
    assert status(router, "one")["value"] == "loaded"
    busy.join(10)
    assert answers[0].status == 500


def test_room_is_made_only_when_the_busy_one_is_done(server, presets, http, status, until, complete, some_tokens):
    base = server("--models-preset", str(presets), "--models-max", "1")
    complete(base, "one")
    busy, answers = in_background(lambda: complete(base, "one", some_tokens))
    until(lambda: any(slot["is_processing"] for slot in http(base, "GET", "/slots?model=one").json))
    assert complete(base, "two").status == 200
    busy.join(10)
    assert answers[0].status == 200
    assert [status(base, name)["value"] for name in ("one", "two")] == ["unloaded", "loaded"]


def test_no_room_is_made_while_another_one_loads(server, presets, http, status, until, halted):
    base = server("--models-preset", str(presets), "--models-max", "1")
    child = halted(base, "one")
    refused = http(base, "POST", "/models/load", {"model": "two"})
    assert (refused.status, refused.json["error"]["message"]) == (500, "model limit reached, try again later")
    os.kill(child, signal.SIGCONT)
    until(lambda: status(base, "one")["value"] == "loaded")
    assert status(base, "two")["value"] == "unloaded"


def test_what_is_loading_is_running_and_an_unload_kills_it(router, http, status, until, halted, children):
    halted(router, "one")
    again = http(router, "POST", "/models/load", {"model": "one"})
    assert (again.status, again.json["error"]["message"]) == (400, "model is already running")
    assert http(router, "POST", "/models/unload", {"model": "one"}).json == {"success": True}
    until(lambda: status(router, "one")["value"] == "unloaded")
    assert (status(router, "one")["failed"], status(router, "one")["exit_code"]) == (True, 1)
    assert children() == []


def test_a_router_that_is_told_to_end_does_not_wait_for_a_load(box, router, until, halted):
    child = halted(router, "one")
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0
    until(lambda: gone(child))


def test_a_router_that_is_told_to_end_ends_with_a_request_in_flight(
    server, box, presets, http, load, until, complete, children, many_tokens
):
    base = server("--models-preset", str(presets))
    load(base, "one")
    (child,) = children()

    def ask():
        try:
            return complete(base, "one", many_tokens).status
        except (OSError, http_client.HTTPException):
            return "dropped"

    busy, answers = in_background(ask)
    until(lambda: any(slot["is_processing"] for slot in http(base, "GET", "/slots?model=one").json))
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0
    until(lambda: gone(child))
    busy.join(10)
    assert answers[0] != 200


def test_each_model_is_a_child_of_the_routers_group_known_by_its_alias(box, router, load, children):
    load(router, "one")
    load(router, "two")
    found = children()
    assert {os.getpgid(pid) for pid in found} == {os.getpgid(box.started[0].pid)}
    words = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in found]
    assert sorted(line[line.index("--alias") + 1] for line in words) == ["one", "two"]


def test_a_section_may_ask_to_be_loaded_at_the_start(server, tmp_path, status, until, model_file):
    path = tmp_path / "eager.ini"
    path.write_text(f"[m]\nmodel = {model_file}\nload-on-startup = true\n")
    base = server("--models-preset", str(path))
    until(lambda: status(base, "m")["value"] == "loaded")


def test_what_a_sleeper_is_asked_without_waking_it(server, tmp_path, http, load, status, until, model_file):
    path = tmp_path / "idle.ini"
    path.write_text(f"[m]\nmodel = {model_file}\nsleep-idle-seconds = 1\nmetrics = true\n")
    base = server("--models-preset", str(path))
    load(base, "m")
    until(lambda: status(base, "m")["value"] == "sleeping")
    asked = {path: http(base, "GET", f"{path}?model=m&autoload=false").status for path in ("/props", "/metrics")}
    assert asked["/props"] == 200
    assert (asked, status(base, "m")["value"]) == ({"/props": 200, "/metrics": 200}, "sleeping")
    assert http(base, "POST", "/models/unload", {"model": "m"}).json == {"success": True}
    until(lambda: status(base, "m")["value"] == "unloaded")
    assert not status(base, "m").get("failed")


def test_tokens_are_counted_when_they_are_served_and_by_nothing_else(server, http, complete, model_file):
    base = server("-m", model_file, "--metrics")

    def served():
        lines = http(base, "GET", "/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if "tokens_total " in line and not line.startswith("#"))

    before = served()
    for path in ("/health", "/props", "/v1/models", "/metrics", "/slots"):
        http(base, "GET", path)
    assert served() == before
    complete(base, "tiny")
    assert served() > before


def test_options_are_tried_without_loading_anything(server, box, model_file):
    """Options and then --version: what does not know one says so, else it tells its version and ends."""
    known = f"-m {model_file} --ctx-size 512 --n-gpu-layers 999 --fit off --model-draft {model_file}".split()
    cases = {
        (*known, "--version"): 0,
        ("--version", "--no-such-option"): 0,
        ("-m", "/nowhere/missing.gguf", "--version"): 0,
        ("-m", model_file, "--no-such-option", "--version"): 1,
        ("-m", model_file, "--parallel", "many", "--version"): 1,
        ("-m", model_file, "--flash-attn", "perhaps", "--version"): 1,
        ("-m", model_file, "--threads=4", "--version"): 1,
    }
    for words, code in cases.items():
        server(*words, ready=False)
        assert box.started[-1].wait(10) == code, (words, box.log())
        assert ("version: " in box.log()) is (code == 0), box.log()
        assert "loading model" not in box.log()
