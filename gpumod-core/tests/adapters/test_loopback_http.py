"""The HTTP client against servers that behave, and servers that do anything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters.http import MAX_BODY, LoopbackHttp, _target
from gpumod.ports import Http, HttpFailure

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(talk: Talk, port: int = 0) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answers(data: bytes, *, pause_s: float = 0.0) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(pause_s)

    return talk


def reply(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


async def failure(port: int, timeout_s: float = 1.0, path: str = "/") -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        await LoopbackHttp().request("GET", port, path, timeout_s=timeout_s)
    assert str(caught.value)
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_whole_request_arrives_and_its_answer_comes_back() -> None:
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        seen.extend([head, await reader.readexactly(length)])
        writer.write(reply(b'{"ok": [1, "\xc3\xa9"]}', "201 Created"))
        await writer.drain()

    http: Http = LoopbackHttp()
    async with server(talk) as port:
        got = await http.request("POST", port, "/a b?x=1", query=[("q", "a&b"), ("q", "é")], json_body={"n": 1})
    assert (got.status, got.ok, got.json_body) == (201, True, {"ok": [1, "é"]})
    head = seen[0].decode()
    assert head.startswith("POST /a%20b?x=1&q=a%26b&q=%C3%A9 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n" in head
    assert "Connection: close\r\n" in head
    assert json.loads(seen[1]) == {"n": 1}


@pytest.mark.parametrize(
    ("data", "status", "text", "body"),
    [
        (reply(b"not json"), 200, "not json", None),
        (reply(b"", "204 No Content"), 204, "", None),
        (reply(b"[" * 200_000, "500 Internal Server Error"), 500, "[" * 200_000, None),
        (reply(b"1" * 5000), 200, "1" * 5000, None),
        (reply(b"\xff\xfe"), 200, "��", None),
        (reply(b"x", "302 Found", "Location: http://127.0.0.1:1/\r\n"), 302, "x", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"{}"), 200, "{}", {}),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, "to the end", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "{}", {}),
    ],
)
async def test_answers_of_every_kind(data: bytes, status: int, text: str, body: Any) -> None:
    async with server(answers(data)) as port:
        got = await LoopbackHttp().request("GET", port, "/")
    assert (got.status, got.text, got.json_body) == (status, text, body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\xff" * 20,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_what_is_not_http(data: bytes) -> None:
    async with server(answers(data)) as port:
        assert (await failure(port)).kind == "protocol"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_huge_body_is_given_up(chunked: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
        block = b"x" * 65536
        while True:
            writer.write(b"10000\r\n" + block + b"\r\n" if chunked else block)
            await writer.drain()

    async with server(talk) as port:
        caught = await failure(port, timeout_s=10)
    assert caught.kind == "protocol"
    assert str(MAX_BODY) in str(caught)


async def test_nobody_listens() -> None:
    assert (await failure(free_port())).kind == "refused"


async def test_reset() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with server(talk) as port:
        assert (await failure(port)).kind == "protocol"


async def test_hanging_and_dripping_servers_meet_one_deadline() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await asyncio.sleep(0.01)

    for talk in (hang, drip):
        async with server(talk) as port:
            begun = time.monotonic()
            assert (await failure(port, timeout_s=0.2)).kind == "timeout"
            assert time.monotonic() - begun < 3


async def test_a_backlog_that_nobody_accepts_is_a_timeout() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        assert (await failure(listening.getsockname()[1], timeout_s=0.1)).kind == "timeout"


async def test_a_server_that_answers_before_it_has_read_everything() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(reply(b"too much", "413 Too Large"))
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await reader.read(65536):
                    pass

    async with server(talk) as port:
        got = await LoopbackHttp().request("POST", port, "/", json_body="x" * 3_000_000)
    assert got.status == 413


async def test_a_server_restarted_on_its_port() -> None:
    http = LoopbackHttp()
    port = free_port()
    for body in (b"1", b"2", b"3"):
        async with server(answers(reply(body)), port):
            assert (await http.request("GET", port, "/")).text == body.decode()
        with pytest.raises(HttpFailure):
            await http.request("GET", port, "/")


async def test_many_at_once() -> None:
    http = LoopbackHttp()
    async with server(answers(reply(b"{}"))) as port:
        got = await asyncio.gather(*(http.request("GET", port, "/", timeout_s=60) for _ in range(200)))
    assert {reply.status for reply in got} == {200}


async def test_a_path_without_its_slash() -> None:
    assert (await failure(free_port(), path="health")).kind == "protocol"


def test_cancelling_leaves_no_connection() -> None:
    async def scenario() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read():  # until the other side hangs up; nothing comes from one that only knocks
                gone.set_result(True)

        gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        async with server(hang) as port:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(LoopbackHttp().request("GET", port, "/", timeout_s=50), 0.1)
            assert await asyncio.wait_for(gone, 5)

    asyncio.run(scenario())
    asyncio.run(scenario())  # another loop, another time


TEXT = st.text(st.characters(), max_size=30)  # lone surrogates too


@settings(deadline=None)
@given(path=TEXT, query=st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_a_target_is_always_one_plain_word(path: str, query: list[tuple[str, str]]) -> None:
    target = _target("/" + path, query)
    assert target.startswith("/")
    assert target.isascii()
    assert target.isprintable()
    assert not set(target) & set(' #"<>\\^`{}|')


def test_neither_httpx_nor_certificates_are_paid_for_before_a_request() -> None:
    code = "import sys, gpumod.adapters.http; print([m for m in ('httpx', 'certifi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


SLOW_IMPORT = """
import asyncio, sys, time

class Slowly:
    def find_spec(self, name, path=None, target=None):
        if name == "httpcore":
            time.sleep(1.0)

sys.meta_path.insert(0, Slowly())
from gpumod.adapters.http import LoopbackHttp

async def ask():
    http = LoopbackHttp()
    replies = await asyncio.gather(*(http.request("GET", int(sys.argv[1]), "/", timeout_s=0.5) for _ in range(3)))
    return [reply.text for reply in replies]

print(asyncio.run(ask()))
"""


async def test_what_this_side_has_to_load_first_is_not_taken_for_the_servers_silence() -> None:
    async with server(answers(reply(b"here"))) as port:
        asker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SLOW_IMPORT, str(port), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asker.communicate()
    assert out.decode().strip() == str(["here"] * 3), err.decode()
