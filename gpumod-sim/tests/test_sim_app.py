"""The stand-in of one's own HTTP service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from gpumod_sim import faults


def test_any_path_is_healthy_and_memory_is_as_expected(box, app, http):
    base = app(vram_mb=6001, CUDA_VISIBLE_DEVICES="0,1")
    assert http(base, "GET", "/any/health").json == {"status": "ok", "sleeping": False}
    assert (box.used(0), box.used(1)) == (3001, 3000)


def test_without_an_expectation_it_takes_little(box, app):
    app()
    assert box.held() == {"svc": 500}


def test_sleep_gives_back_and_wake_takes_again(box, app, http):
    base = app(vram_mb=6000)
    for _ in range(2):
        assert http(base, "POST", "/admin/sleep").json == {"status": "sleeping"}
        assert box.held() == {"svc": 300}
    assert http(base, "GET", "/health").json["sleeping"] is True
    assert http(base, "POST", "/echo", b"x").status == 503
    box.ledger.hold("other", {0: 23000})
    assert http(base, "POST", "/admin/wake").status == 500
    box.ledger.hold("other", {0: 0})
    assert http(base, "POST", "/admin/wake").json == {"status": "awake"}
    assert box.held() == {"svc": 6000}


def test_it_works_and_tells_what_is_in_flight(app, http, until):
    base = app()
    thread = threading.Thread(target=http, args=(base, "POST", "/echo?seconds=1", b"hi"))
    thread.start()
    until(lambda: http(base, "GET", "/activity").json == {"in_flight": 1})
    thread.join()
    assert http(base, "GET", "/activity").json == {"in_flight": 0}
    assert http(base, "POST", "/echo", b"hi").json["echo"] == "hi"
    assert http(base, "POST", "/v1/audio/transcriptions", b"abc").json == {"text": "3 bytes of speech"}
    assert http(base, "POST", "/v1/audio/speech", {"input": "x"}).text.startswith("RIFF")
    assert http(base, "POST", "/echo?seconds=x").status == 422


def test_a_client_that_leaves_is_no_longer_in_flight(app, http, until):
    base = app()
    with pytest.raises(TimeoutError):
        http(base, "POST", "/echo?seconds=30", timeout_s=0.2)
    until(lambda: http(base, "GET", "/activity").json == {"in_flight": 0})


def test_it_ends_by_the_signal_as_uvicorn_does(box, app):
    app()
    box.started[0].terminate()
    assert box.started[0].wait(10) == -signal.SIGTERM
    assert "Application shutdown complete." in box.log()


def test_a_taken_port(box, app):
    base = app()
    app("--port", base.rsplit(":", 1)[1], wait=False, service="second")
    assert box.started[1].wait(10) == 1
    assert "[Errno 98] error while attempting to bind on address" in box.log("second")


@pytest.mark.parametrize("args", [("--bogus",), ("--port",), ("--port", "x")])
def test_bad_options(box, app, args):
    app(*args, wait=False)
    assert box.started[0].wait(10) == 2
    assert box.log().startswith("Error: ")


def test_its_faults(box, app, http):
    faults.put(box.machine, "full", "oom-at-start")
    app(wait=False, service="full", vram_mb=6000)
    assert box.started[0].wait(10) == 3
    assert "CUDA out of memory" in box.log("full")
    base = app(vram_mb=6000)
    faults.put(box.machine, "svc", "sleep-500")
    assert http(base, "POST", "/sleep").status == 500
    faults.clear(box.machine)
    faults.put(box.machine, "svc", "sleep-hangs")
    with pytest.raises(TimeoutError):
        http(base, "POST", "/sleep", timeout_s=0.2)
    faults.clear(box.machine)
    faults.put(box.machine, "svc", "sleep-frees-nothing")
    http(base, "POST", "/sleep")
    assert box.held() == {"svc": 6000}
    faults.clear(box.machine)
    faults.put(box.machine, "svc", "wake-oom")
    assert http(base, "POST", "/wake").status == 500


def test_as_a_module_it_finds_its_machine_in_the_environment(box, free_port, http, until):
    port = free_port()
    argv = [sys.executable, "-m", "gpumod_sim.app", "--port", str(port)]
    done = subprocess.run(argv, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "GPUMOD_SIM_MACHINE" in done.stderr
    environment = {"PATH": os.environ["PATH"], "GPUMOD_SIM_MACHINE": box.machine.folder, "GPUMOD_SERVICE": "own"}
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    box.started.append(process)
    until(lambda: http(f"http://127.0.0.1:{port}", "GET", "/health").status == 200)
    assert box.held() == {"own": 500}
