"""A llama-server with CUDA and models of real size: they come, answer, sleep, wake and go; what each takes is noted."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import NEAR_MB, Holder, Home, card, held_mb, wait_until
from tests.gpu.gguf import Q4_0, Q8_0, Llama

pytestmark = [pytest.mark.gpu_required, pytest.mark.timeout(400)]

SERVER = os.environ.get("GPUMOD_TEST_LLAMA_SERVER_CUDA", "")
NOTES = os.environ.get("GPUMOD_TEST_MEASURED", "")
TOKENS = 8192
BESIDE_MB = 800
"""What is counted beside weights and cache: buffers of the computation and CUDA's context with cuBLAS."""
GONE_MB = 64
"""So much may be missing of what was there before."""
MODELS = {"big": Llama(Q8_0), "small": Llama(Q4_0)}


def expected_mb(name: str) -> int:
    """Weights and cache alone."""
    return int(MODELS[name].on_gpu_mb() + MODELS[name].kv_mb(TOKENS))


def said_mb(name: str) -> int:
    """What its definition says that it takes."""
    return expected_mb(name) + BESIDE_MB


@pytest.fixture(scope="module")
def server(libraries: None) -> str:
    """The program, which names its build."""
    if not SERVER:
        pytest.skip("GPUMOD_TEST_LLAMA_SERVER_CUDA names none: see tests/gpu/llama_server_cuda.py")
    subprocess.run([SERVER, "--version"], check=True, capture_output=True, timeout=60)
    return SERVER


@pytest.fixture(scope="module")
def files(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The models, in host RAM where it has room for them: how long they load is then without a disk."""
    folder = tmp_path_factory.mktemp("models")
    memory = Path("/dev/shm") / f"gpumod-models-{os.getpid()}"
    if shutil.disk_usage(memory.parent).free > 16 * 1024**3:
        memory.mkdir(mode=0o700)
        folder = memory
    try:
        for name, model in MODELS.items():
            model.write(folder / f"{name}.gguf")
        yield {name: folder / f"{name}.gguf" for name in MODELS}
    finally:
        shutil.rmtree(folder)


class Notes:
    """What was taken after each step, as rows of one JSON document in the file that GPUMOD_TEST_MEASURED names."""

    def __init__(self, probe: NvmlProbe, home: Home, title: str) -> None:
        self._probe, self._home, self._title = probe, home, title
        self.before_mb = card(probe).used_mb
        self.rows: list[dict[str, Any]] = []

    def card_mb(self) -> int:
        """What the card holds more than before."""
        return card(self._probe).used_mb - self.before_mb

    def take(self, what: str, done: Any = None) -> None:
        """Note what is held now, and how long the steps of a change took that has just been `done`."""
        processes = {}
        for row in self._home.ok("status")["services"]:
            if row["pid"]:
                ram_mb = psutil.Process(row["pid"]).memory_info().rss // 2**20
                processes[row["id"]] = {"vram_mb": held_mb(self._probe, row["pid"]), "ram_mb": ram_mb}
        steps = {f"{step['action']} {step['service']}": step["seconds"] for step in (done or {}).get("steps", ())}
        self.rows.append({"after": what, "card_mb": self.card_mb(), "processes": processes, "seconds": steps})

    def close(self) -> None:
        if NOTES:
            path = Path(NOTES)
            told = json.loads(path.read_text()) if path.exists() else {}
            models = {name: {"weights_and_cache_mb": expected_mb(name), "said_mb": said_mb(name)} for name in MODELS}
            where = {"card": card(self._probe).name, "cores": os.cpu_count()}
            told[self._title] = {**where, "models": models, "rows": self.rows}
            path.write_text(json.dumps(told, indent=1) + "\n")


@pytest.fixture
def notes(request: pytest.FixtureRequest, probe: NvmlProbe, home: Home) -> Iterator[Notes]:
    made = Notes(probe, home, request.node.name)
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def define(home: Home, name: str, file: Path, *how: str) -> None:
    """A model of 8192 tokens of context, and the mode `with-NAME` of it alone."""
    model = ("--model-path", str(file), "--context-size", str(TOKENS), "--vram-mb", str(said_mb(name)))
    home.ok("service", "add", "--id", name, "--driver", "llamacpp", "--gpus", "0", *model, *how)
    home.ok("mode", "create", f"with-{name}", "--services", name)


@pytest.fixture
def routed(home: Home, server: str, files: dict[str, Path]) -> Home:
    """A router with both models as members, and a mode of both."""
    where = ("--port", str(free_port()), "--set", "router=true", "--set", f"llama_server_bin={server}")
    home.ok("service", "add", "--id", "router", "--driver", "llamacpp", "--gpus", "0", *where)
    for name, file in files.items():
        define(home, name, file, "--host-service", "router", "--sleep-mode", "router")
    home.ok("mode", "create", "both", "--services", ",".join(files))
    return home


def change(home: Home, *words: str) -> Any:
    code, told = home.gpumod(*words)
    assert code == 0, told["error"]
    return told


def complete(home: Home, service: str) -> None:
    """Sixteen tokens after some hundreds; what they say is noise."""
    asked = {"model": service, "prompt": "word7 " * 100, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    url = f"http://127.0.0.1:{home.row(service)['port']}/v1/completions"
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        assert json.loads(reply.read())["choices"]


def simulated(home: Home, *words: str) -> tuple[str, int, dict[str, str]]:
    """The plan's verdict, the most that it says the card will hold, and where each service's number comes from."""
    _, told = home.gpumod("simulate", *words)
    return told["verdict"], told["gpus"][0]["peak_mb"], {row["id"]: row["source"] for row in told["services"]}


def holds_what_was_said(home: Home, probe: NvmlProbe, name: str) -> int:
    """What the model's own process holds: weights and cache at least, and no more than its definition says."""
    row = home.row(name)
    assert row["state"] == "running"
    held = held_mb(probe, row["pid"])
    assert held is not None
    assert abs(held - row["vram_mb"]) <= NEAR_MB
    assert expected_mb(name) <= held <= said_mb(name)
    return held


def test_a_llama_server_of_one_model_comes_answers_and_goes(
    home: Home, probe: NvmlProbe, notes: Notes, server: str, files: dict[str, Path]
) -> None:
    define(home, "big", files["big"], "--port", str(free_port()), "--set", f"llama_server_bin={server}")
    assert simulated(home, "--mode", "with-big")[0] == "fits"
    notes.take("load", change(home, "switch", "with-big"))
    holds_what_was_said(home, probe, "big")
    complete(home, "big")
    notes.take("use")
    holds_what_was_said(home, probe, "big")
    notes.take("stop", change(home, "switch", "blank"))
    wait_until(lambda: notes.card_mb() <= GONE_MB, "its memory to come back")


def test_members_of_a_router_come_answer_sleep_wake_and_go(routed: Home, probe: NvmlProbe, notes: Notes) -> None:
    notes.take("load of big", change(routed, "switch", "with-big"))
    holds_what_was_said(routed, probe, "big")
    complete(routed, "big")
    notes.take("use of big")
    used_mb = holds_what_was_said(routed, probe, "big")

    notes.take("sleep of big", change(routed, "service", "sleep", "big"))
    assert routed.row("big")["state"] == "sleeping"
    assert notes.card_mb() <= GONE_MB  # of its process nothing is left, and the router takes next to nothing
    notes.take("wake of big", change(routed, "service", "wake", "big"))
    complete(routed, "big")
    assert abs(holds_what_was_said(routed, probe, "big") - used_mb) <= NEAR_MB

    verdict, peak_mb, sources = simulated(routed, "--mode", "both")
    assert (verdict, sources["big"], sources["small"]) == ("fits", "measured", "declared")
    notes.take("load of small", change(routed, "switch", "both"))
    complete(routed, "small")
    notes.take("use of both")
    both_mb = holds_what_was_said(routed, probe, "big") + holds_what_was_said(routed, probe, "small")
    assert both_mb <= peak_mb

    notes.take("unload of big", change(routed, "switch", "with-small"))
    assert held_mb(probe, routed.row("small")["pid"]) == notes.rows[-1]["processes"]["small"]["vram_mb"]
    assert notes.card_mb() <= said_mb("small") + GONE_MB
    complete(routed, "small")
    notes.take("stop of all", change(routed, "switch", "blank"))
    wait_until(lambda: notes.card_mb() <= GONE_MB, "all memory to come back")


def test_what_was_measured_decides_whether_both_models_fit(
    routed: Home, probe: NvmlProbe, holders: Callable[[], Holder]
) -> None:
    change(routed, "switch", "both")
    for name in ("big", "small"):  # less than was declared is believed of what was used
        complete(routed, name)
    change(routed, "switch", "blank")
    _, peak_mb, sources = simulated(routed, "--mode", "both")
    assert (sources["big"], sources["small"]) == ("measured", "measured")
    reserve_mb = routed.ok("status")["gpus"][0]["reserve_mb"]
    stranger = holders()
    # The stranger leaves as much as the models take and what is kept free, and a little; then a little less than that.
    stranger.tell(f"take {card(probe).free_mb - reserve_mb - peak_mb - 2 * NEAR_MB}")
    change(routed, "switch", "both")
    change(routed, "switch", "blank")
    stranger.tell(f"take {6 * NEAR_MB}")
    code, refused = routed.gpumod("switch", "both")
    assert (code, refused["plan"]["verdict"]) == (3, "does-not-fit"), refused
    assert {row["state"] for row in routed.ok("status")["services"]} == {"stopped"}
    change(routed, "switch", "with-big")
    change(routed, "switch", "blank")
