"""The driver of an Ollama: how it is started, read, and told to load and unload its models."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from gpumod.adapters.http import LoopbackHttp
from gpumod.api import Allocation, CommandLine, Failed, HostsMembers, NamesMembers, ReadsItsLog, Service, Settings
from gpumod.testing.web import Answer, Call, FakeWeb, NoAnswer, QuickClock
from gpumod_fastapi.ollama.driver import OllamaDriver
from gpumod_fastapi.ollama.sleep import UnloadSleep

DRIVER, HTTP = OllamaDriver(), LoopbackHttp()
MIB = 1024 * 1024


def a_host(**fields: Any) -> Service:
    return Service.model_validate({"id": "ollama", "driver": "ollama", "port": 11434} | fields)


def a_member(model: str = "llama3:8b", **fields: Any) -> Service:
    known = {"id": "chat", "driver": "ollama", "host": "ollama", "model_id": model, "sleep_mode": "unload"}
    return Service.model_validate(known | fields)


def test_it_is_started_so_that_it_does_nothing_by_itself() -> None:
    options = {"models_dir": "/m", "context_length": 8192, "flash_attention": True, "env": {"OLLAMA_DEBUG": "1"}}
    launch = DRIVER.launch(a_host(unit_vars=options), Allocation(), Settings())
    assert launch.argv == ("ollama", "serve")
    assert launch.env == {
        "OLLAMA_DEBUG": "1", "OLLAMA_MODELS": "/m", "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_LOADED_MODELS": "16",
        "OLLAMA_NOPRUNE": "1",
    }  # fmt: skip
    assert launch.ports == (11434,)
    with pytest.raises(ValueError, match="loaded by its host"):
        DRIVER.launch(a_member(), Allocation(), Settings())


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (a_host(port=None), "port"),
        (a_host(model_id="llama3"), "members have"),
        (a_host(model_path="/m.gguf"), "not model_path"),
        (a_host(sleep_mode="unload"), "does not sleep"),
        (a_host(unit_vars={"env": {"OLLAMA_HOST": "0.0.0.0"}}), "OLLAMA_HOST is set by gpumod"),
        (a_host(unit_vars={"unload_timeout_s": 5}), "unload_timeout_s"),
        (a_host(unit_vars={"kv_cache_type": "-x"}), "kv_cache_type"),
        (a_member(model_id=None), "llama3:8b"),
        (a_member("-x"), "llama3:8b"),
        (a_member("a b"), "llama3:8b"),
        (a_member(port=5), "no port"),
        (a_member(sleep_mode="router"), "'unload'"),
        (a_member(context_size=4096), "context_length"),
        (a_member(unit_vars={"models_dir": "/m"}), "models_dir belong to the Ollama"),
    ],
)
def test_what_an_ollama_cannot_do_is_refused(service: Service, says: str) -> None:
    with pytest.raises(ValueError, match=f"'{service.id}'") as caught:
        DRIVER.check(service)
    assert says in str(caught.value)


def test_its_powers_are_those_of_a_host() -> None:
    for power in (HostsMembers, NamesMembers, ReadsItsLog):
        assert isinstance(DRIVER, power)
    host, member = DRIVER.capabilities(a_host()), DRIVER.capabilities(a_member())
    assert (host.hosts_members, host.unloads_itself, host.sleep_levels) == (True, True, ())
    assert (member.hosts_members, member.unloads_itself, member.sleep_levels) == (False, False, ("unload",))
    assert DRIVER.member_name(a_member("hf.co/org/model")) == "hf.co/org/model:latest"
    assert DRIVER.member_name(a_member("localhost:5000/a/b")) == "localhost:5000/a/b:latest"
    assert DRIVER.members_file(a_host(), [], Settings()) is None
    assert (UnloadSleep().residue_mb(a_member(), 9), UnloadSleep().ram_mb(a_member(), 9)) == (0, 0)


def test_its_command_line_is_read() -> None:
    def read(*argv: str, **env: str) -> Any:
        return DRIVER.read_command(CommandLine(argv=argv, env=env))

    launch = DRIVER.launch(a_host(port=9999, unit_vars={"context_length": 4096}), Allocation(), Settings())
    told = read(*launch.argv, **launch.env)
    assert (told.sure, told.fields["port"], told.fields["unit_vars"]) == (True, 9999, {"context_length": 4096})
    DRIVER.check(Service(id="x", driver="ollama", **told.fields))
    assert read("/usr/local/bin/ollama", "serve").fields["unit_vars"] == {"ollama_bin": "/usr/local/bin/ollama"}
    for said, binds, port in (
        ("0.0.0.0:9999", "0.0.0.0", 9999),
        ("http://127.0.0.1:5", "127.0.0.1", 5),
        ("[::]:7", "::", 7),
        ("0.0.0.0", "0.0.0.0", 11434),
        ("", "", 11434),
        ("no place at all", "", 11434),
        (":99999", "", 11434),
    ):
        told = read("ollama", "serve", OLLAMA_HOST=said)
        assert (told.binds, told.fields["port"]) == (binds, port), said
    assert read("ollama", "run", "llama3") is None
    assert read("uvicorn", "ollama:serve") is None


class Server:
    """An Ollama's answers, with faults by the last part of a path; an unloaded model stays listed for `stays` looks."""

    def __init__(self, *, loaded: bool = False, **faults: Answer | None) -> None:
        self.loaded, self.stays = loaded, 0
        self.faults = faults
        self.bodies: list[Any] = []

    def __call__(self, call: Call) -> Answer | None:
        if call.json_body is not None and call.path == "/api/generate":
            self.bodies.append(call.json_body)
        if (last := call.path.rpartition("/")[2]) in self.faults:
            return self.faults[last]
        if call.path == "/api/tags":
            far = {"name": "big:cloud", "remote_host": "https://example.invalid"}
            return 200, {"models": [{"name": "llama3:8b", "size": 5 * MIB}, {"name": "other:1b"}, far, 7]}
        if call.path == "/api/ps":
            if not self.loaded and self.stays:
                self.stays -= 1
                return 200, {"models": [self.entry()]}
            return 200, {"models": [self.entry()] if self.loaded else []}
        if call.path == "/api/show":
            return 200, {"modelfile": "# from\nFROM /blobs/sha256-1\nTEMPLATE x"}
        if call.path in ("/api/generate", "/api/embed"):
            assert isinstance(call.json_body, dict)
            self.loaded = call.json_body["keep_alive"] != 0
            return 200, {"done": True}
        return 200, {"version": "0.12.3"}

    def entry(self) -> dict[str, Any]:
        return {"name": "llama3:8b", "size": 5 * MIB, "size_vram": 3 * MIB, "digest": "d"}


async def test_a_model_is_loaded_for_good_and_unloaded_when_it_is_gone() -> None:
    server = Server()
    async with FakeWeb(server) as web:
        for _ in range(2):
            await DRIVER.load(a_member(), web.port, HTTP, QuickClock())
        assert server.bodies[0] == {"model": "llama3:8b", "keep_alive": -1, "stream": False}
        told = await DRIVER.members(a_host(), web.port, [], HTTP)
        assert {name: one.loaded for name, one in told.items()} == {"llama3:8b": True, "other:1b": False}
        assert told["llama3:8b"].detail == "only 3 of 5 MiB are on the GPU"
        assert (await DRIVER.probe(a_member(), web.port, HTTP)).state == "ready"
        server.stays, asked = 3, len(server.bodies)
        for _ in range(2):
            await UnloadSleep().sleep(a_member(), web.port, HTTP, QuickClock())
        assert server.bodies[asked:] == [{"model": "llama3:8b", "keep_alive": 0, "stream": False}]
        assert server.stays == 0, "it was waited for"
        assert (await DRIVER.probe(a_member(), web.port, HTTP)).state == "sleeping"
        await UnloadSleep().wake(a_member(), web.port, HTTP, QuickClock())
        assert server.loaded
        assert (await DRIVER.probe(a_host(), web.port, HTTP)).state == "ready"
        assert not [call for call in web.said() if "pull" in call]


async def test_a_model_that_embeds_alone_is_loaded_by_an_empty_input() -> None:
    server = Server(generate=(400, {"error": '"llama3:8b" does not support generate'}))
    async with FakeWeb(server) as web:
        await DRIVER.load(a_member(), web.port, HTTP, QuickClock())
        (told,) = [call.json_body for call in web.calls if call.path == "/api/embed"]
    assert told == {"model": "llama3:8b", "keep_alive": -1, "input": ""}


@pytest.mark.parametrize(
    ("verb", "server", "member", "code", "says"),
    [
        ("load", Server(generate=(400, {"error": "odd"}), embed=(404, "")), a_member(), "load-failed", "400: odd"),
        ("load", Server(), a_member("none:1b"), "unknown-member", "does not name it"),
        ("load", Server(), a_member("big:cloud"), "unknown-member", "does not name it"),
        ("load", Server(generate=(500, {"error": "cudaMalloc failed"})), a_member(), "load-failed", "500: cudaMalloc"),
        ("load", Server(generate=None), a_member(startup_timeout=0.2), "load-timeout", "0.2 s"),
        ("load", Server(generate=(200, {})), a_member(startup_timeout=2), "load-timeout", "does not list it"),
        ("load", Server(tags=(200, "[]")), a_member(), "ollama-error", "200"),
        ("unload", Server(loaded=True, generate=(500, "x")), a_member(), "unload-failed", "500: x"),
        ("unload", Server(loaded=True, generate=(200, {})), a_member(), "unload-timeout", "still loaded after 60 s"),
        ("unload", Server(ps=(500, "x")), a_member(), "ollama-error", "500"),
    ],
)
async def test_each_failure_of_an_ollama_has_its_name(
    verb: str, server: Server, member: Service, code: str, says: str
) -> None:
    act = DRIVER.load if verb == "load" else DRIVER.unload
    async with FakeWeb(server) as web:
        with pytest.raises(Failed) as caught:
            await act(member, web.port, HTTP, QuickClock())
    assert caught.value.code == code
    assert says in caught.value.info.why


@pytest.mark.parametrize(
    ("kind", "state", "code"),
    [("refused", "starting", "load-failed"), ("timeout", "unhealthy", "load-timeout")],
)
async def test_an_ollama_that_does_not_answer_is_no_traceback(kind: Any, state: str, code: str) -> None:
    for service in (a_host(), a_member()):
        assert (await DRIVER.probe(service, 1, NoAnswer(kind))).state == state
    with pytest.raises(Failed) as caught:
        await DRIVER.load(a_member(), 1, NoAnswer(kind), QuickClock())
    assert caught.value.code == code
    async with FakeWeb(lambda _: (500, {"error": "broken"})) as web:
        assert (await DRIVER.probe(a_member(), web.port, HTTP)).state == "unhealthy"


async def test_the_process_of_a_model_is_found_by_the_file_it_was_told() -> None:
    sleeps = "import time; time.sleep(60)"
    runners = [
        subprocess.Popen([sys.executable, "-c", sleeps, "--model", path, "--port", "1"])
        for path in ("/blobs/sha256-2", "/blobs/sha256-1")
    ]
    try:
        pids = [os.getpid(), *(runner.pid for runner in runners), 2**22 + 1]
        async with FakeWeb(Server(loaded=True)) as web:
            for _ in range(2):
                told = await DRIVER.members(a_host(), web.port, pids, HTTP)
                assert told["llama3:8b"].pid == runners[1].pid
            assert web.said().count("POST /api/show") == 1, "asked once for each model"
            alone = await OllamaDriver().members(a_host(), web.port, pids[:2], HTTP)
            assert alone["llama3:8b"].pid == runners[0].pid, "there is no other that it could be"
    finally:
        for runner in runners:
            runner.kill()
            runner.wait()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Error: listen tcp 127.0.0.1:11434: bind: address already in use", "port-taken"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "out-of-memory"),
    ],
)
def test_its_fatal_lines_are_known(line: str, code: str) -> None:
    found = DRIVER.fatal_line(a_host(), ["time=... level=INFO", line])
    assert found is not None
    assert found.code == code
