"""The llama-server stand-in: its memory, its ways to fail, faults by member."""

from __future__ import annotations

import re
import signal
import time

import pytest

from gpumod_sim import faults
from gpumod_sim.llama_flags import PresetError, read_presets

ROUTER = """[one]
; gpumod: vram_mb=5000
model = /m/one.gguf
stop-timeout = 1

[two]
# gpumod: vram_mb=7000
model = /m/two.gguf

[huge]
; gpumod: vram_mb=70000
model = /m/huge.gguf

[host]
; gpumod: vram_mb=9000
model = /m/cpu.gguf
ngl = 0
"""


@pytest.fixture
def router(tmp_path, llama):
    path = tmp_path / "r.ini"
    path.write_text(ROUTER)
    return llama("--models-preset", str(path), service="router")


@pytest.fixture
def state(http):
    return lambda base, name: next(
        model["status"] for model in http(base, "GET", "/models").json["data"] if model["id"] == name
    )


def post(http, base, verb, name):
    return http(base, "POST", f"/models/{verb}", {"model": name}, timeout_s=1)


def test_members_hold_their_own_memory(box, router, http, state, until):
    for name in ("one", "two", "host"):
        post(http, router, "load", name)
    until(lambda: all(state(router, name)["value"] == "loaded" for name in ("one", "two", "host")))
    assert box.held() == {"one": 5000, "two": 7000}
    assert box.started[0].pid not in {row["pid"] for row in box.ledger.rows()}
    post(http, router, "unload", "one")
    until(lambda: state(router, "one")["value"] == "unloaded")
    assert box.held() == {"two": 7000}


def test_a_member_without_memory_says_so_in_the_log(box, router, http, state, until):
    post(http, router, "load", "huge")
    until(lambda: state(router, "huge")["value"] == "unloaded")
    assert state(router, "huge")["exit_code"] == 1
    until(lambda: "main: exiting due to model loading error" in box.log("router"))
    assert "allocating 70000.00 MiB on device 0: cudaMalloc failed: out of memory" in box.log("router")
    assert "error loading model: unable to allocate CUDA0 buffer" in box.log("router")
    (port,) = re.findall(r"srv  load: spawning server instance with name=huge on port (\d+)", box.log("router"))
    assert f"[{port}] " in box.log("router")


def test_a_worker_in_its_own_session_does_not_hide_that_its_member_ended(box, router, http, state, until):
    faults.put(box.machine, "one", "setsid-worker", 700)
    post(http, router, "load", "one")
    until(lambda: state(router, "one")["value"] == "loaded")
    assert box.held() == {"one": 5000}
    post(http, router, "unload", "one")
    until(lambda: state(router, "one")["value"] == "unloaded")
    until(lambda: box.held() == {"one": 700})


def test_unloading_what_still_loads_kills_it(box, router, http, state, until):
    faults.put(box.machine, "one", "slow-start", 1000)
    post(http, router, "load", "one")
    until(box.held)
    post(http, router, "unload", "one")
    until(lambda: state(router, "one")["value"] == "unloaded")
    assert state(router, "one")["failed"] is True


def test_faults_of_members(box, router, http, state, until):
    post(http, router, "load", "one")
    until(lambda: state(router, "one")["value"] == "loaded")
    faults.put(box.machine, "one", "sleep-500")
    assert post(http, router, "unload", "one").status == 500
    faults.clear(box.machine)
    faults.put(box.machine, "one", "sleep-hangs")
    with pytest.raises(TimeoutError):
        post(http, router, "unload", "one")
    faults.clear(box.machine)
    faults.put(box.machine, "one", "sleep-frees-nothing")
    post(http, router, "unload", "one")
    assert state(router, "one")["value"] == "unloaded"
    http(router, "GET", "/models?reload=1")
    time.sleep(0.2)
    assert box.held() == {"one": 5000}
    faults.clear(box.machine)
    until(lambda: box.held() == {})
    faults.put(box.machine, "one", "wake-oom")
    post(http, router, "load", "one")
    until(lambda: state(router, "one").get("failed"))
    faults.clear(box.machine)
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0
    until(lambda: box.held() == {})


def test_a_member_that_ignores_the_word_to_exit_is_killed(box, router, http, state, until):
    faults.put(box.machine, "one", "ignore-sigterm")
    post(http, router, "load", "one")
    until(lambda: state(router, "one")["value"] == "loaded")
    post(http, router, "unload", "one")
    until(lambda: state(router, "one")["value"] == "unloaded")
    assert state(router, "one")["failed"] is True


def test_a_killed_router_leaves_no_memory(box, router, http, until):
    post(http, router, "load", "one")
    until(box.held)
    box.started[0].send_signal(signal.SIGKILL)
    until(lambda: box.held() == {})


@pytest.mark.parametrize(
    ("args", "gpus", "held"),
    [
        ((), "0", (6001, 0)),
        ((), "0,1", (3001, 3000)),
        (("-ngl", "0"), "0", (0, 0)),
        (("--device", "CUDA1"), "0,1", (0, 6001)),
        (("--split-mode", "none", "--main-gpu", "1"), "0,1", (0, 6001)),
        ((), "", (0, 0)),
    ],
)
def test_where_one_model_goes(box, llama, args, gpus, held):
    llama("-m", "/m/x.gguf", *args, vram_mb=6001, CUDA_VISIBLE_DEVICES=gpus)
    assert (box.used(0), box.used(1)) == held


def test_without_an_expectation_it_takes_its_file_and_a_cache(box, llama, tmp_path):
    model = tmp_path / "m.gguf"
    with model.open("wb") as file:
        file.truncate(400 * 1024 * 1024)
    llama("-m", str(model), "-c", "8192")
    assert box.held() == {"svc": 400 + 80}


def test_while_it_loads_everything_is_503(box, llama, http, until):
    faults.put(box.machine, "svc", "never-ready")
    base = llama("-m", "/m/x.gguf", wait=False, vram_mb=100)
    until(lambda: http(base, "GET", "/health").status)
    for path in ("/health", "/v1/models", "/slots", "/nope"):
        answer = http(base, "GET", path)
        assert (answer.status, answer.json["error"]["message"]) == (503, "Loading model")
    box.started[0].terminate()
    assert box.started[0].wait(10) == -signal.SIGTERM


def test_a_model_that_is_corrupt(box, llama):
    llama("-m", "/m/corrupt.gguf", wait=False)
    assert box.started[0].wait(10) == 1
    assert "invalid magic characters" in box.log()


def test_asleep_by_itself_it_keeps_its_context(box, llama, http, until):
    base = llama("-m", "/m/x.gguf", "--sleep-idle-seconds", "0", vram_mb=3000)
    until(lambda: box.held() == {"svc": 300})
    assert http(base, "POST", "/completion", {"prompt": "x"}).status == 200
    until(lambda: box.held() == {"svc": 300})
    box.ledger.hold("other", {0: 24000})
    with pytest.raises(OSError):  # noqa: PT011  # it aborts, as llama.cpp does
        http(base, "POST", "/completion", {"prompt": "x"})
    assert box.started[0].wait(10) == -signal.SIGABRT


@pytest.mark.parametrize("text", ["[m]\nnonsense = 1\n", "stray = 1\n", "[m]\nword\n", "[a]\nalias = b\n[b]\nc = 1\n"])
def test_preset_files_that_are_refused(text):
    with pytest.raises(PresetError):
        read_presets(text)


def test_presets_are_read_in_llama_cpps_dialect():
    shared = "version = 1\n[*]\nngl = 99\nc = 1\n"
    own = "[a]\n; gpumod: vram_mb=12\nno-kv-offload = true\nLLAMA_ARG_CTX_SIZE = 4096 ; comment\n"
    presets = read_presets(shared + own)
    assert list(presets) == ["a"]
    assert presets["a"].vram_mb == 12
    assert presets["a"].options == {"n-gpu-layers": "99", "ctx-size": "4096", "kv-offload": "false"}
    assert presets["a"].argv() == ["--n-gpu-layers", "99", "--ctx-size", "4096", "--no-kv-offload"]


def test_a_faulty_child_does_not_hold_the_router(box, router, http, state, until):
    faults.put(box.machine, "one", "hang")
    post(http, router, "load", "one")
    until(lambda: state(router, "one")["value"] == "loaded")
    with pytest.raises(TimeoutError):
        http(router, "POST", "/completion", {"model": "one", "prompt": "x"}, timeout_s=0.3)
    assert http(router, "GET", "/health").status == 200
    faults.put(box.machine, "one", "die-after", 0)
    until(lambda: state(router, "one").get("failed"))
