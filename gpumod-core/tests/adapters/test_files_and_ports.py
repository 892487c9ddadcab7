"""Files, the clock, and who listens on a port."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.files import ensure_private_dir, free_disk_mb, home_id, write_atomic
from gpumod.adapters.ports_in_use import port_user
from gpumod.domain.errors import Failed
from gpumod.ports import Clock


@settings(deadline=None)
@given(text=st.text(), mode=st.sampled_from([0o600, 0o644, 0o755]), durable=st.booleans())
def test_write_atomic(tmp_path_factory: pytest.TempPathFactory, text: str, mode: int, durable: bool) -> None:
    path = tmp_path_factory.mktemp("w") / ("n" * 200)
    path.write_text("old")
    try:
        write_atomic(path, text, mode, durable=durable)
    except UnicodeEncodeError:
        assert path.read_text() == "old"
    else:
        assert path.read_bytes() == text.encode("utf-8", "surrogateescape")
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_text_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {letter * 100_000 for letter in "abc"}
    write_atomic(path, "a" * 100_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(30):
            for text in texts:
                write_atomic(path, text, durable=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    writer.join()


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    write_atomic(tmp_path / "link", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "link").is_symlink()


def test_private_folders(tmp_path: Path) -> None:
    folder = ensure_private_dir(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    ensure_private_dir(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/nothing")):
        with pytest.raises(Failed) as caught:
            ensure_private_dir(bad)
        assert caught.value.code == "bad-folder"


def test_free_disk(tmp_path: Path) -> None:
    assert free_disk_mb(tmp_path / "not" / "there") == pytest.approx(free_disk_mb(tmp_path), abs=50)
    assert free_disk_mb(tmp_path) > 0


def test_home_id_is_one_for_all_that_ask_at_once(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(home_id(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home-id"]
    assert stat.S_IMODE((tmp_path / "home-id").stat().st_mode) == 0o600
    (tmp_path / "home-id").write_text("../../x")
    with pytest.raises(Failed) as caught:
        home_id(tmp_path)
    assert caught.value.code == "bad-home-id"


async def test_the_clock() -> None:
    clock: Clock = SystemClock()
    assert abs(clock.now() - time.time()) < 1
    begun = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - begun >= 0.009


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_listener_is_found_and_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.listen()
        port = listening.getsockname()[1]
        user = port_user(port)
        assert user is not None
        assert user.pid == os.getpid()
        assert user.name
    assert port_user(port) is None


def test_another_process_is_named() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        user = port_user(int(process.stdout.readline()))
        assert user is not None
        assert user.pid == process.pid
        process.kill()


async def test_lingering_connections_do_not_make_a_port_used() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()  # the side that closes first lingers

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    writer.close()
    server.close()
    await asyncio.sleep(0.01)
    assert port_user(port) is None
