"""The driver and the traps of a router: of the stand-in, or of the real one that GPUMOD_TEST_LLAMA_SERVER names."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpumod.adapters.asking import Asker
from gpumod.adapters.clock import SystemClock
from gpumod.api import Allocation, Failed, GpuShare, HttpFailure, MemberReading, Service, Settings
from gpumod_llamacpp.driver import LlamaCppDriver
from gpumod_sim.create import create_machine
from gpumod_sim.machine import Machine
from tests.drivers.test_drivers_on_simulation import free_port
from tests.llamacpp import tiny_gguf
from tests.llamacpp.conftest import HTTP

pytestmark = [pytest.mark.slow, pytest.mark.sim]

DRIVER, CLOCK = LlamaCppDriver(), SystemClock()
REAL = os.environ.get("GPUMOD_TEST_LLAMA_SERVER")
TOKENS = 1500 if REAL else 2_000
SEAT = Allocation(gpus=(GpuShare(index=0, total_mb=24564, budget_mb=24000, vram_mb=500),))


class Router:
    """A router, started as the driver launches it, and its members."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = create_machine(folder / "m", [("RTX", 24564)])
        Machine(str(folder / "m")).configure(speed=50)
        self.settings = Settings.model_validate(made | ({"llama_server_bin": REAL} if REAL else {}))
        self.model = tiny_gguf.write_llama(folder / "tiny.gguf", layers=1)
        self.host = Service(id="box", driver="llamacpp", port=free_port(), unit_vars={"router": True})
        self.port = self.host.port or 0
        self.process: subprocess.Popen[bytes] | None = None
        self.shared = ""
        """Lines for every member, which gpumod would not write."""

    def member(self, name: str, **options: Any) -> Service:
        options = {"extra_args": ["--threads", "1"], **options}  # more would wait for one another
        fields = {"id": name, "driver": "llamacpp", "host": "box", "model_path": str(self.model), "vram_mb": 500}
        more = {"context_size": 2048, "sleep_mode": "router", "startup_timeout": 30, "unit_vars": options}
        return Service.model_validate(fields | more)

    async def start(self) -> None:
        launch = DRIVER.launch(self.host, SEAT, self.settings)
        argv = [word.replace("{service_dir}", str(self.folder)) for word in launch.argv]
        (self.folder / launch.files[0].name).write_text(launch.files[0].content)
        path = f"{self.settings.bin_path}:{os.environ['PATH']}"
        environ = {"HOME": str(self.folder), "PATH": path, "CUDA_VISIBLE_DEVICES": "0", "GPUMOD_SERVICE": "box"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=environ, stdout=log, stderr=log)
        async with asyncio.timeout(30):
            while (await DRIVER.probe(self.host, self.port, HTTP)).state != "ready":
                await asyncio.sleep(0.02)

    async def configure(self, *members: Service) -> None:
        file = DRIVER.members_file(self.host, [(member, SEAT) for member in members], self.settings)
        (self.folder / file.name).write_text(file.content + self.shared)
        await DRIVER.reload(self.host, self.port, HTTP, CLOCK)

    async def load(self, *members: Service) -> None:
        await self.configure(*members)
        await asyncio.gather(*(DRIVER.load(member, self.port, HTTP, CLOCK) for member in members))

    async def unload(self, member: Service) -> None:
        await DRIVER.unload(member, self.port, HTTP, CLOCK)

    def children(self) -> list[int]:
        assert self.process is not None
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    async def reading(self, name: str) -> MemberReading:
        return (await DRIVER.members(self.host, self.port, self.children(), HTTP))[name]

    async def status(self, name: str) -> str:
        """The router's own word."""
        listed = (await HTTP.request("GET", self.port, "/models")).json_body["data"]
        value: str = next(model["status"]["value"] for model in listed if model["id"] == name)
        return value

    def ask(self, name: str, tokens: int = 2) -> asyncio.Task[Any]:
        body = {"model": name, "prompt": "hi", "max_tokens": tokens, "ignore_eos": True}
        request = HTTP.request("POST", self.port, "/v1/completions", json_body=body, timeout_s=30)
        return asyncio.create_task(request)

    async def busy(self, member: Service) -> None:
        """Return when a request is under way."""
        async with asyncio.timeout(10):
            while not ((used := await DRIVER.activity(member, self.port, HTTP)) and used.in_flight):
                await asyncio.sleep(0.01)

    async def halted(self, member: Service) -> int:
        """Let it load, and stop its process meanwhile; its pid."""
        for _ in range(20):
            await HTTP.request("POST", self.port, "/models/load", json_body={"model": member.id})
            async with asyncio.timeout(10):
                while not (found := self.children()):
                    await asyncio.sleep(0)
            os.kill(found[0], signal.SIGSTOP)
            if await self.status(member.id) == "loading":
                return found[0]
            os.kill(found[0], signal.SIGCONT)
            await self.unload(member)
        raise AssertionError("it is loaded before it can be stopped")

    def close(self) -> None:
        if self.process is None:
            return
        for pid in self.children() if self.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    made = Router(tmp_path)
    yield made
    made.close()


async def test_an_edit_leaves_loaded_members_as_they_are(router: Router) -> None:
    await router.start()
    one, two = router.member("one"), router.member("two")
    await router.load(one)
    pid = (await router.reading("one")).pid
    await router.load(one, two)
    assert (await router.reading("one")).pid == pid
    assert {(await router.reading(name)).loaded for name in ("one", "two")} == {True}
    await router.configure(one)
    async with asyncio.timeout(10):
        while "two" in await DRIVER.members(router.host, router.port, (), HTTP):
            await asyncio.sleep(0.02)
    assert (await router.reading("one")).pid == pid


async def test_a_request_in_flight_is_answered_whole_before_an_unload(router: Router) -> None:
    await router.start()
    one = router.member("one", parallel=1)
    await router.load(one)
    asked = router.ask("one", TOKENS)
    await router.busy(one)
    await router.unload(one)
    assert asked.done()
    reply = await asked
    assert (reply.status, reply.json_body["usage"]["completion_tokens"]) == (200, TOKENS)
    assert (await DRIVER.probe(one, router.port, HTTP)).state == "sleeping"


async def test_no_look_loads_or_wakes(router: Router) -> None:
    """One that went to sleep by itself counts as loaded: its process is there, with what it keeps."""
    await router.start()
    router.shared = "\n[*]\nsleep-idle-seconds = 1\n"
    one, two = router.member("one"), router.member("two")
    await router.load(one)
    await router.configure(one, two)
    async with asyncio.timeout(10):
        while await router.status("one") != "sleeping":
            await asyncio.sleep(0.05)
    for _ in range(3):
        assert (await DRIVER.probe(one, router.port, HTTP)).state == "ready"
        assert (await DRIVER.probe(two, router.port, HTTP)).state == "sleeping"
        used = await DRIVER.activity(one, router.port, HTTP)
        assert used is not None
        assert used.in_flight == 0
        assert await DRIVER.activity(two, router.port, HTTP) is None
        reading = await router.reading("one")
        assert (reading.loaded, reading.pid) == (True, router.children()[0])
    assert (await router.status("one"), await router.status("two")) == ("sleeping", "unloaded")
    await router.unload(one)
    assert (await router.reading("one")).failed is False
    assert router.children() == []


async def test_a_child_that_was_told_to_end_is_half_dead(router: Router) -> None:
    await router.start()
    one = router.member("one")
    await router.load(one)
    await router.ask("one")  # a real one is loaded a little before it heeds signals
    (child,) = router.children()
    os.kill(child, signal.SIGTERM)
    async with asyncio.timeout(10):
        while (found := await DRIVER.probe(one, router.port, HTTP)).state == "ready":
            await asyncio.sleep(0.05)
    assert found.state == "unhealthy"
    assert (await router.status("one"), (await router.reading("one")).pid) == ("loaded", child)
    assert await DRIVER.activity(one, router.port, HTTP) is None
    await router.unload(one)
    assert router.children() == []
    await router.load(one)
    assert (await DRIVER.probe(one, router.port, HTTP)).state == "ready"


async def test_a_child_that_is_killed_has_failed_until_it_is_loaded_again(router: Router) -> None:
    await router.start()
    one = router.member("one")
    await router.load(one)
    os.kill(router.children()[0], signal.SIGKILL)
    async with asyncio.timeout(10):
        while not (reading := await router.reading("one")).failed:
            await asyncio.sleep(0.02)
    assert (reading.configured, reading.loaded, reading.pid) == (True, False, None)
    await router.load(one)
    assert (await router.reading("one")).loaded


async def test_one_that_loads_is_unloaded_at_once_and_that_is_no_failure(router: Router) -> None:
    await router.start()
    one = router.member("one")
    await router.configure(one)
    child = await router.halted(one)
    reading = await router.reading("one")
    assert (reading.loading, reading.pid) == (True, child)
    await router.unload(one)
    reading = await router.reading("one")
    assert (reading.configured, reading.loading, reading.failed) == (True, False, False)
    assert router.children() == []


async def test_a_load_of_one_that_is_just_stopping_loads_it_anew(router: Router) -> None:
    await router.start()
    one = router.member("one", stop_timeout_s=1, parallel=1)
    await router.load(one)
    before = (await router.reading("one")).pid
    asked = router.ask("one", 100 * TOKENS)
    await router.busy(one)
    await HTTP.request("POST", router.port, "/models/unload", json_body={"model": "one"})  # somebody else's
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        while (await router.reading("one")).pid in (before, None):
            await DRIVER.load(one, router.port, HTTP, CLOCK)
            await asyncio.sleep(0.1)
    assert (await DRIVER.probe(one, router.port, HTTP)).state == "ready"
    assert (await asked).status == 500


async def test_a_router_that_is_gone_is_told_as_such(router: Router) -> None:
    await router.start()
    one = router.member("one")
    await router.load(one)
    assert router.process is not None
    router.process.kill()
    router.process.wait()
    with pytest.raises(HttpFailure):
        await DRIVER.members(router.host, router.port, (), HTTP)
    for act, code in ((DRIVER.load, "load-failed"), (DRIVER.unload, "unload-failed")):
        with pytest.raises(Failed) as caught:
            await act(one, router.port, HTTP, CLOCK)
        assert caught.value.code == code
    assert (await DRIVER.probe(one, router.port, HTTP)).state == "starting"


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({}, ""),
        ({"flash_attn": "on", "cache_type_v": "q8_0", "parallel": 2, "n_cpu_moe": 1, "ubatch_size": 64}, ""),
        ({"mmproj": "/nowhere.gguf", "model_draft": "/nowhere.gguf", "embeddings": True, "pooling": "mean"}, ""),
        ({"extra_args": ["--temp=0.1", "--jinja", "--device", "CUDA7", "-ot", "exps=CUDA7"]}, ""),
        ({"mmproj": "/nowhere.gguf", "extra_args": ["--mmproj-device", "CUDA0"]}, ""),
        ({"extra_args": ["--no-such-option"]}, "--no-such-option"),
        ({"extra_args": ["--threads", "many"]}, "--threads"),
        ({"extra_args": ["--jinja=1"]}, "1"),
        ({"cache_type_k": "q9_9"}, "--cache-type-k"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
async def test_what_the_program_takes_is_asked_before_it_is_needed(
    router: Router, options: dict[str, Any], flag: str, alone: bool
) -> None:
    service = router.member("one", **options)
    host = router.host
    if alone:
        service = service.model_copy(update={"host": None, "port": free_port(), "sleep_mode": "none"})
        host = service
        if any("=" in word for word in options.get("extra_args", ())):
            flag = options["extra_args"][0]  # only a router's file has flags with an equals sign
    launch = DRIVER.launch(host, SEAT, router.settings)
    asker = Asker(router.settings)
    answers = [
        await asker.ask(service.id, launch, question, router.folder)
        for question in DRIVER.questions(service, launch, router.settings)
    ]
    known = [answer for answer in answers if answer is not None]
    assert len(known) == 2
    if not flag:
        assert known[1].exit_code == 0, known[1]
        assert DRIVER.suited(service, launch, known) == launch
        return
    with pytest.raises(ValueError, match=r"llama-server \(version .*\) does not take") as caught:
        DRIVER.suited(service, launch, known)
    assert f"does not take {flag}" in str(caught.value)
