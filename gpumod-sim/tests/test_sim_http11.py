"""The tiny HTTP server, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gpumod_sim.flags import FlagError, parse
from gpumod_sim.http11 import HttpServer, bind, json_reply


@contextlib.asynccontextmanager
async def served(handle):
    server = HttpServer(handle)
    sock = bind("127.0.0.1", 0)
    await server.serve(sock)
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    yield reader, writer, server
    writer.close()
    await server.close()


async def echo(request):
    value = {"method": request.method, "path": request.path, "query": request.query, "body": request.body.decode()}
    return json_reply(value)


async def reply(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head.split(b"\r\n")[0].decode(), (await reader.readexactly(length)).decode()


async def test_a_connection_is_kept_and_requests_may_come_in_pieces():
    async with served(echo) as (reader, writer, _):
        for piece in (b"POST /a%20b?x=1&x=2 HT", b"TP/1.1\r\nContent-Length: 5\r\n\r\nhe", b"llo"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        line, body = await reply(reader)
        assert line == "HTTP/1.1 200 OK"
        assert '"path": "/a b", "query": [["x", "1"], ["x", "2"]], "body": "hello"' in body
        writer.write(b"GET /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert "/one" in (await reply(reader))[1]
        assert "/two" in (await reply(reader))[1]
        assert await reader.read() == b""


async def test_a_client_may_wait_to_be_told_to_go_on():
    async with served(echo) as (reader, writer, _):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert '"body": "ok"' in (await reply(reader))[1]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"GET /" + b"x" * 70000, 431),
    ],
)
async def test_what_is_not_http_is_refused(sent, status):
    async with served(echo) as (reader, writer, _):
        writer.write(sent)
        assert f" {status} ".encode() in await reader.read()


async def test_a_handler_that_fails_is_a_500_and_one_whose_client_left_is_cancelled(capsys):
    ended = asyncio.Event()

    async def handle(request):
        if request.path == "/fails":
            raise RuntimeError("odd")
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    async with served(handle) as (reader, writer, _):
        writer.write(b"GET /fails HTTP/1.1\r\n\r\n")
        assert (await reply(reader))[0].startswith("HTTP/1.1 500")
        writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)
    assert "RuntimeError: odd" in capsys.readouterr().err


async def test_closing_waits_for_what_is_in_flight():
    async def handle(_request):
        await asyncio.sleep(0.1)
        return json_reply({"done": True})

    async with served(handle) as (reader, writer, server):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.02)
        await server.close(wait_s=5)
        assert "done" in (await reply(reader))[1]


def test_flags_are_read_as_the_table_says():
    table = {"on": "switch", "n": "int", "x": "float", "names": "list", "fa": "tri", "t": "text"}
    flags = parse(
        ["a", "--no-on", "--n=3", "-x", "1.5", "--names", "u", "v", "--fa", "auto", "--t", "-1", "b"],
        table,
        {"-x": "x"},
    )
    assert flags.rest == ["a", "b"]
    assert (flags.on("on"), flags.whole("n", 0), flags.number("x", 0), flags.text("fa")) == (False, 3, 1.5, "auto")
    assert (flags.values["names"], flags.text("t"), flags.text("other", "d")) == (["u", "v"], "-1", "d")
    for argv, kind in ((["--y"], "unknown"), (["-q"], "unknown"), (["--n"], "missing"), (["--n", "z"], "invalid")):
        with pytest.raises(FlagError) as caught:
            parse(argv, table, {})
        assert caught.value.kind == kind
