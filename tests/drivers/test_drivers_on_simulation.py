"""The drivers against the simulated machine: real processes, sockets and HTTP, and the ledger as the judge."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Allocation, Driver, Failed, GpuShare, ReadsItsLog, Service, Settings, SleepStrategy
from gpumod_fastapi.driver import FastApiDriver
from gpumod_fastapi.ollama.driver import OllamaDriver
from gpumod_fastapi.ollama.sleep import UnloadSleep
from gpumod_fastapi.sleep import HttpSleep
from gpumod_llamacpp.driver import LlamaCppDriver
from gpumod_llamacpp.sleep import RouterSleep
from gpumod_sim.create import create_machine
from gpumod_sim.ollama_models import add_model
from gpumod_sim.probe import SimProbe
from gpumod_vllm.driver import VllmDriver
from gpumod_vllm.sleep import L1Sleep, L2Sleep

pytestmark = pytest.mark.sim
TOTAL_MB = 24564
HTTP, CLOCK = LoopbackHttp(), SystemClock()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def on_card(vram_mb: int) -> Allocation:
    return Allocation(gpus=(GpuShare(index=0, total_mb=TOTAL_MB, budget_mb=TOTAL_MB, vram_mb=vram_mb),))


class Bench:
    """Starts what a driver launches, as a supervisor would, and reads the ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.model_validate(create_machine(folder / "m", [("RTX", TOTAL_MB)]))
        self.probe = SimProbe(str(folder / "m"))
        self.running: list[subprocess.Popen[bytes]] = []

    def used_mb(self) -> int:
        return self.probe.read()[0][0].used_mb

    def log(self, service: Service) -> list[str]:
        return (self.folder / service.id / "log").read_text().splitlines()

    def start(self, driver: Driver, service: Service) -> subprocess.Popen[bytes]:
        launch = driver.launch(service, on_card(service.vram_mb), self.settings)
        home = self.folder / service.id
        home.mkdir()
        for file in launch.files:
            (home / file.name).write_text(file.content)
        env = {**os.environ, **launch.env, "GPUMOD_SERVICE": service.id, "GPUMOD_VRAM_MB": str(service.vram_mb)}
        env |= {"CUDA_VISIBLE_DEVICES": "0", "PATH": f"{self.settings.bin_path}:{os.environ['PATH']}"}
        with (home / "log").open("wb") as log:
            argv = [word.replace("{service_dir}", str(home)) for word in launch.argv]
            self.running.append(subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT))
        return self.running[-1]

    async def started(self, driver: Driver, service: Service) -> subprocess.Popen[bytes]:
        process = self.start(driver, service)
        async with asyncio.timeout(30):
            while (found := await driver.probe(service, service.port or 0, HTTP)).state != "ready":
                assert found.state == "starting", (found, self.log(service))
                await asyncio.sleep(0.02)
        return process

    async def naps(self, driver: Driver, strategy: SleepStrategy, service: Service, port: int) -> None:
        """Sleep and wake, each twice: by its own word, and by the ledger."""
        awake_mb = self.used_mb()
        for _ in range(2):
            await strategy.sleep(service, port, HTTP, CLOCK)
        assert (await driver.probe(service, port, HTTP)).state == "sleeping"
        async with asyncio.timeout(5):
            while self.used_mb() >= awake_mb - service.vram_mb // 2:
                await asyncio.sleep(0.02)
        for _ in range(2):
            await strategy.wake(service, port, HTTP, CLOCK)
        assert (await driver.probe(service, port, HTTP)).state == "ready"
        assert self.used_mb() == awake_mb


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    for process in it.running:
        process.terminate()
    for process in it.running:
        process.wait(20)


def a_vllm(name: str, vram_mb: int, **fields: Any) -> Service:
    known = {"id": name, "driver": "vllm", "port": free_port(), "vram_mb": vram_mb, "model_id": "Qwen/Qwen3-0.6B"}
    return Service.model_validate(known | fields)


@pytest.mark.parametrize(
    ("level", "strategy", "options"),
    [("l1", L1Sleep(), {}), ("l2", L2Sleep(), {}), ("l2", L2Sleep(), {"runner": "pooling"})],
)
async def test_a_vllm_takes_its_share_sleeps_and_wakes(
    bench: Bench, level: str, strategy: SleepStrategy, options: dict[str, Any]
) -> None:
    service = a_vllm("emb", 5000, sleep_mode=level, context_size=4096, unit_vars=options)
    await bench.started(VllmDriver(), service)
    assert bench.used_mb() == 5000
    await bench.naps(VllmDriver(), strategy, service, service.port or 0)


async def test_a_vllm_without_room_says_what_it_needs(bench: Bench) -> None:
    await bench.started(VllmDriver(), a_vllm("one", 20000))
    two = a_vllm("two", 20000)
    assert bench.start(VllmDriver(), two).wait(20) == 1
    found = VllmDriver().fatal_line(two, bench.log(two))
    assert found is not None
    assert (found.code, found.need_mb) == ("out-of-memory", 19999)
    assert found.have_mb == pytest.approx(TOTAL_MB - 20000, abs=6)


def a_member(name: str, vram_mb: int, **options: Any) -> Service:
    known = {"id": name, "driver": "llamacpp", "host": "router", "model_path": f"/m/{name}.gguf"}
    more = {"vram_mb": vram_mb, "sleep_mode": "router", "startup_timeout": 20, "unit_vars": options}
    return Service.model_validate({**known, **more})


async def test_a_router_loads_its_members_and_lets_them_finish(bench: Bench) -> None:
    driver, port = LlamaCppDriver(), free_port()
    host = Service(id="router", driver="llamacpp", port=port, unit_vars={"router": True})
    process = await bench.started(driver, host)
    chat = a_member("chat", 7000, parallel=1, flash_attn="on", cache_type_k="q8_0", extra_args="--jinja --seed -1")
    other, missing, fat = a_member("other", 1500, embeddings=True), a_member("missing", 10), a_member("fat", 19000)
    members = [(member, on_card(member.vram_mb)) for member in (chat, other, missing, fat)]

    async def configure(count: int) -> None:
        file = driver.members_file(host, members[:count], bench.settings)
        (bench.folder / host.id / file.name).write_text(file.content)
        await driver.reload(host, port, HTTP, CLOCK)

    def pids() -> list[int]:
        return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]

    await configure(4)
    await asyncio.gather(*(driver.load(member, port, HTTP, CLOCK) for member in (chat, other)))
    found = await driver.members(host, port, pids(), HTTP)
    assert {name: reading.loaded for name, reading in found.items()} == {
        "chat": True, "other": True, "missing": False, "fat": False,
    }  # fmt: skip
    assert {found["chat"].pid, found["other"].pid} == set(pids())
    assert bench.used_mb() == 8500

    assert isinstance(driver, ReadsItsLog)
    for member, code, need_mb in ((missing, "bad-model", None), (fat, "out-of-memory", 19000)):
        with pytest.raises(Failed) as caught:
            await driver.load(member, port, HTTP, CLOCK)
        assert caught.value.code == "load-failed"
        fatal = driver.fatal_line(member, bench.log(host))
        assert fatal is not None
        assert (fatal.code, fatal.need_mb) == (code, need_mb)

    body = {"model": "chat", "prompt": "x", "max_tokens": 300}
    asked = asyncio.create_task(HTTP.request("POST", port, "/v1/completions", json_body=body, timeout_s=20))
    await asyncio.sleep(0.01)
    await bench.naps(driver, RouterSleep(), chat, port)
    assert (await asked).status == 200

    await driver.unload(other, port, HTTP, CLOCK)
    await configure(1)
    found = await driver.members(host, port, pids(), HTTP)
    assert set(found) == {"chat"}
    assert found["chat"].loaded


async def test_a_single_model_is_served_with_all_its_options(bench: Bench) -> None:
    options = {"n_gpu_layers": 99, "n_cpu_moe": 1, "mmproj": "/m/p.gguf", "ubatch_size": 512, "reranking": True}
    fields = {"id": "glm", "driver": "llamacpp", "port": free_port(), "vram_mb": 9000, "model_path": "/m/a b.gguf"}
    service = Service.model_validate({**fields, "context_size": 8192, "unit_vars": options})
    await bench.started(LlamaCppDriver(), service)
    assert bench.used_mb() == 9000


async def test_a_service_of_ones_own_sleeps_by_its_endpoints(bench: Bench) -> None:
    options = {"sleep_path": "/sleep", "wake_path": "/wake", "activity_path": "/activity"}
    options["command"] = "uvicorn app:app --host {host} --port {port}"
    fields = {"id": "asr", "driver": "fastapi", "port": free_port(), "vram_mb": 6000, "sleep_mode": "http"}
    service = Service.model_validate({**fields, "unit_vars": options})
    await bench.started(FastApiDriver(), service)
    await bench.naps(FastApiDriver(), HttpSleep(), service, service.port or 0)


async def test_a_model_of_an_ollama_is_loaded_and_unloaded(bench: Bench) -> None:
    models = bench.folder / "models"
    add_model(str(models), "llama3:8b", 4500)
    host = Service(id="ollama", driver="ollama", port=free_port(), unit_vars={"models_dir": str(models)})
    fields = {"id": "chat", "driver": "ollama", "host": "ollama", "model_id": "llama3:8b", "vram_mb": 5000}
    member = Service.model_validate({**fields, "sleep_mode": "unload"})
    driver, port = OllamaDriver(), host.port or 0
    process = await bench.started(driver, host)
    await driver.load(member, port, HTTP, CLOCK)
    assert bench.used_mb() == 5000
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    told = await driver.members(host, port, [process.pid, *children], HTTP)
    assert [told["llama3:8b"].pid] == children
    await bench.naps(driver, UnloadSleep(), member, port)
    await driver.unload(member, port, HTTP, CLOCK)
