"""The vLLM stand-in: its command line, its memory, its ways to fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from gpumod_sim import faults
from gpumod_sim.vllm_flags import guessed_weights_mb, size_bytes

SHARE = ("--gpu-memory-utilization", "0.25")  # 6141 MiB of 24564


def run(box, *args, program="vllm", **env):
    process = box.start(program, *args, **env)
    return process.wait(20), box.log(env.get("service", "svc"))


def test_its_memory_is_utilization_times_total(box, vllm):
    vllm(*SHARE, vram_mb=2000)
    assert box.held() == {"svc": 6141}


def test_tensor_parallel_takes_its_share_of_every_gpu(box, vllm):
    vllm(*SHARE, "-tp", "2", CUDA_VISIBLE_DEVICES="1,0")
    assert (box.used(0), box.used(1)) == (6141, 6144)


def test_kv_cache_bytes_replace_utilization(box, vllm):
    vllm("--kv-cache-memory-bytes=1073741824", *SHARE)
    assert box.held() == {"svc": 1144 + 1024 + 500}  # weights by the model's name, KV, context


def test_sizes_in_names_and_words():
    assert guessed_weights_mb("Qwen/Qwen3-0.6B", "") == 1144
    assert guessed_weights_mb("org/Model-7B-AWQ", "") == int(7e9 * 0.6 / 1024 / 1024)
    assert guessed_weights_mb("BAAI/bge-m3", "") is None
    quantized = ("org/M-8B-w4a16", "org/M-8B-bnb-4bit", "org/M-8B-NVFP4", "openai/gpt-oss-8b")
    assert {guessed_weights_mb(name, "") for name in quantized} == {int(8e9 * 0.6 / 1024 / 1024)}
    assert guessed_weights_mb("org/M-8B", "fp8") == guessed_weights_mb("org/M-8B-w8a8", "")
    assert [size_bytes(text) for text in ("1024", "2G", "2g", "1Gi")] == [1024, 2 * 1024**3, 2 * 1000**3, 1024**3]


def test_a_share_below_the_weights_is_too_little(box):
    code, log = run(box, "serve", "Qwen/Qwen3-4B", "--port", "0", *SHARE)
    assert code == 1
    assert "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`" in log
    assert "Failed to load model" not in log


def test_a_model_that_the_card_cannot_hold_fails_while_it_loads(box):
    code, log = run(box, "serve", "Qwen/Qwen3-32B", "--port", "0", *SHARE)
    assert code == 1
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate" in log
    assert "Failed to load model - not enough GPU memory" in log


def test_asleep_it_keeps_a_residue_and_l1_takes_host_ram(box, vllm, http):
    base = vllm(*SHARE, "--enable-sleep-mode")
    http(base, "POST", "/sleep?level=1")
    assert 774 <= box.held()["svc"] <= 1100
    assert box.held(None) == {"svc": 1144}
    http(base, "POST", "/sleep?level=2")  # without waking first it only answers
    assert box.held(None) == {"svc": 1144}
    http(base, "POST", "/wake_up")
    assert (box.held(), box.held(None)) == ({"svc": 6141}, {})


def test_without_sleep_mode_nothing_is_freed(box, vllm, http):
    base = vllm(*SHARE)
    assert http(base, "POST", "/sleep?level=1").status == 200
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": True}
    assert box.held() == {"svc": 6141}


def test_without_dev_mode_there_are_no_routes(vllm, http):
    base = vllm(*SHARE, "--enable-sleep-mode", VLLM_SERVER_DEV_MODE="0")
    assert {http(base, "POST", "/sleep").status, http(base, "GET", "/is_sleeping").status} == {404}


def test_dev_mode_is_a_number(box):
    code, log = run(box, "serve", "m", "--port", "1", VLLM_SERVER_DEV_MODE="true")
    assert code == 1
    assert "invalid literal for int()" in log


def test_a_partial_l2_wake_answers_garbage(vllm, http):
    base = vllm(*SHARE, "--enable-sleep-mode")
    http(base, "POST", "/sleep?level=2")
    http(base, "POST", "/wake_up")
    text = http(base, "POST", "/v1/completions", {"prompt": "hello", "max_tokens": 4}).json["choices"][0]["text"]
    assert text == "!!!!"


def test_a_wake_without_memory_fails_and_it_still_sleeps(box, vllm, http):
    base = vllm(*SHARE, "--enable-sleep-mode")
    http(base, "POST", "/sleep?level=1")
    box.ledger.hold("other", {0: 23000})
    answer = http(base, "POST", "/wake_up")
    assert (answer.status, answer.json["error"]["type"]) == (500, "InternalServerError")
    assert "CUDA out of memory" in box.log()
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": True}
    box.ledger.hold("other", {0: 0})
    assert http(base, "POST", "/wake_up").json["status"] == "awake"


def test_a_wake_while_a_sleep_waits_calls_it_not_off(box, vllm, http, until):
    """It falls asleep under a scheduler that runs, and dies of the next request."""
    base = vllm(*SHARE, "--enable-sleep-mode")
    body = {"prompt": "x", "max_tokens": 20_000}
    threads = [threading.Thread(target=http, args=(base, "POST", "/v1/completions", body))]
    threads[0].start()
    until(lambda: re.search(r"num_requests_running\{.*\} 1\.0", http(base, "GET", "/metrics").text))
    threads.append(threading.Thread(target=http, args=(base, "POST", "/sleep?level=1&mode=wait")))
    threads[1].start()
    until(lambda: http(base, "GET", "/is_sleeping").json == {"is_sleeping": True})
    assert http(base, "POST", "/wake_up").json["status"] == "awake"
    for thread in threads:
        thread.join(30)
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": True}
    assert http(base, "POST", "/v1/completions", body).status == 500
    assert box.started[0].wait(10) == 1


def test_l1_needs_host_ram(box, vllm, http):
    box.machine.configure(ram_mb=1000)
    base = vllm(*SHARE, "--enable-sleep-mode")
    assert http(base, "POST", "/sleep?level=1").status == 500
    assert http(base, "GET", "/is_sleeping").json == {"is_sleeping": False}
    assert box.held() == {"svc": 6141}


def test_the_kv_caches_bytes_do_not_replace_the_start_check(box):
    box.ledger.hold("other", {0: 6000})
    code, log = run(box, "serve", "Qwen/Qwen3-0.6B", "--port", "0", "--kv-cache-memory-bytes=1073741824")
    assert code == 1
    assert "is less than desired GPU memory utilization (0.92" in log


def test_the_start_check_compares_free_memory_with_its_share(box):
    box.ledger.hold("other", {0: 20000})
    code, log = run(box, "serve", "m", "--port", "1" if os.getuid() == 0 else "0", *SHARE)
    assert code == 1
    assert (
        "ValueError: Free memory on device cuda:0 (4.46/23.99 GiB) on startup is less than desired GPU memory "
        "utilization (0.25, 6.00 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
    ) in log
    assert "EngineCore failed to start" in log
    *_, last = said = log.splitlines()
    assert "Engine core initialization failed. See root cause above. Failed core proc(s)" in last
    reasons = [number for number, line in enumerate(said) if "ValueError: Free memory" in line]
    assert len(reasons) == 2, "as the engine logs it, and as its process ends with it"
    assert len(said) - reasons[-1] > 60, "its API server's traceback follows"


def test_memory_that_comes_back_while_it_measures_is_an_error(box, vllm, until):
    box.machine.configure(speed=100)
    box.ledger.hold("other", {0: 5000})
    vllm(*SHARE, wait=False)
    until(lambda: box.held().get("svc"))
    box.machine.configure(speed=20)  # time for us
    box.ledger.hold("other", {0: 0})
    assert box.started[0].wait(10) == 1
    assert "Error in memory profiling. Initial free memory" in box.log()


def test_memory_that_others_take_while_it_measures_is_missing_in_its_own(box, vllm, until, http):
    box.machine.configure(speed=100)
    base = vllm(*SHARE, wait=False)
    until(lambda: box.held().get("svc"))
    box.machine.configure(speed=20)  # time for us
    box.ledger.hold("other", {0: 1000})
    until(lambda: http(base, "GET", "/health").status == 200)
    assert box.held() == {"svc": 5141, "other": 1000}


def test_the_port_is_bound_at_once_and_refuses_until_ready(box, vllm, http, until):
    faults.put(box.machine, "svc", "slow-start", 20)
    base = vllm(*SHARE, wait=False)
    until(lambda: "vLLM API server" in box.log())
    with pytest.raises(ConnectionRefusedError):
        http(base, "GET", "/health")
    code, log = run(box, "serve", "m", "--host", "127.0.0.1", "--port", base.rsplit(":", 1)[1], service="second")
    assert code == 1
    assert "Address already in use" in log


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--dtype", "odd"], "argument --dtype: invalid choice: 'odd'"),
        (["--max-num-seqs", "x"], "argument --max-num-seqs: invalid int value: 'x'"),
        (["--port"], "argument --port: expected one argument"),
        (["--task", "embed"], "unrecognized arguments: --task"),
    ],
)
def test_bad_flags_fail_like_argparse(box, args, words):
    code, log = run(box, "serve", "m", *args)
    assert code == 2
    assert words in log


def test_sigterm_ends_it_in_order_and_forgets_it(box, vllm):
    vllm(*SHARE)
    box.machine.configure(lag_s=60)
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0
    assert box.used() == 6141  # the driver has not noticed yet
    box.machine.configure(lag_s=0)
    assert box.used() == 0


def test_api_keys_guard_the_v1_paths(vllm, http):
    base = vllm(*SHARE, "--api-key", "secret")
    assert http(base, "GET", "/health").status == 200
    assert http(base, "GET", "/v1/models").json == {"error": "Unauthorized"}
    assert http(base, "GET", "/v1/models", Authorization="Bearer secret").status == 200


def test_pooling_models_embed_and_rank(vllm, http):
    base = vllm(*SHARE, "--runner", "pooling")
    data = http(base, "POST", "/v1/embeddings", {"input": ["a", "b", "a"]}).json["data"]
    assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]
    ranked = http(base, "POST", "/rerank", {"query": "red apple", "documents": ["blue sky", "red apple pie"]}).json
    assert [row["index"] for row in ranked["results"]] == [1, 0]
    assert http(base, "POST", "/score", {"text_1": "a b", "text_2": ["a b", "c"]}).json["data"][0]["score"] == 1
    assert http(base, "POST", "/v1/completions", {"prompt": "x"}).status == 404


def test_fault_never_ready(box, vllm, http, until):
    faults.put(box.machine, "svc", "never-ready")
    base = vllm(*SHARE, wait=False)
    until(lambda: "simulated fault: never-ready" in box.log())
    with pytest.raises(ConnectionRefusedError):
        http(base, "GET", "/health")
    assert box.held() == {"svc": 6141}


def test_fault_die_after(box, vllm):
    vllm(*SHARE)
    faults.put(box.machine, "svc", "die-after", 0.1)
    assert box.started[0].wait(10) == 1
    assert "CUDA error" in box.log()


def test_fault_ignore_sigterm(box, vllm, http):
    base = vllm(*SHARE)
    faults.put(box.machine, "svc", "ignore-sigterm")
    box.started[0].terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        box.started[0].wait(0.3)
    assert http(base, "GET", "/health").status == 200
    faults.clear(box.machine, "svc")
    box.started[0].terminate()
    assert box.started[0].wait(10) == 0


def test_faults_of_sleeping_and_waking(box, vllm, http):
    base = vllm(*SHARE, "--enable-sleep-mode")
    faults.put(box.machine, "svc", "sleep-500")
    assert http(base, "POST", "/sleep").status == 500
    faults.clear(box.machine, "svc")
    faults.put(box.machine, "svc", "sleep-hangs")
    with pytest.raises(TimeoutError):
        http(base, "POST", "/sleep", timeout_s=0.2)
    faults.clear(box.machine, "svc")
    faults.put(box.machine, "svc", "sleep-frees-nothing")
    assert http(base, "POST", "/sleep").json == {"status": "sleeping", "level": 1}
    assert box.held() == {"svc": 6141}
    faults.clear(box.machine, "svc")
    faults.put(box.machine, "svc", "wake-oom")
    assert http(base, "POST", "/wake_up").status == 500
    faults.clear(box.machine, "svc")
    assert http(base, "POST", "/wake_up").json["status"] == "awake"


def test_fault_cpu_fallback(box, vllm, http):
    faults.put(box.machine, "svc", "cpu-fallback")
    base = vllm(*SHARE, "--enable-sleep-mode")
    faults.clear(box.machine, "svc")
    http(base, "POST", "/sleep")
    http(base, "POST", "/wake_up")
    assert box.held() == {}


def test_fault_hang(box, vllm, http):
    base = vllm(*SHARE)
    faults.put(box.machine, "svc", "hang")
    with pytest.raises(TimeoutError):
        http(base, "GET", "/health", timeout_s=0.2)
    socket.create_connection(("127.0.0.1", int(base.rsplit(":", 1)[1])), timeout=1).close()
    faults.clear(box.machine, "svc")
    assert http(base, "GET", "/health").status == 200


def test_fault_oom_at_start(box, vllm):
    faults.put(box.machine, "svc", "oom-at-start")
    vllm(*SHARE, wait=False)
    assert box.started[0].wait(10) == 1
    assert "CUDA out of memory. Tried to allocate 6141.00 MiB" in box.log()
    assert "Failed to load model - not enough GPU memory" in box.log()


def test_fault_setsid_worker_holds_memory_and_outlives(box, vllm):
    faults.put(box.machine, "svc", "setsid-worker", 700)
    vllm(*SHARE)
    assert box.held() == {"svc": 6141}
    rows = {row["pid"]: row["mb"] for row in box.ledger.rows()}
    main = box.started[0].pid
    (worker,) = set(rows) - {main}
    assert (rows[main], rows[worker]) == (5441, 700)
    assert os.getsid(worker) == worker
    box.started[0].send_signal(signal.SIGKILL)
    box.started[0].wait()
    time.sleep(0.15)
    assert box.held() == {"svc": 700}
    os.kill(worker, signal.SIGTERM)


def test_a_machine_that_is_deleted_has_no_processes(box, vllm):
    vllm(*SHARE)
    config = box.folder / "machine.json"
    gone = config.rename(box.folder / "gone.json")
    assert box.started[0].wait(10) == 1
    gone.rename(config)
