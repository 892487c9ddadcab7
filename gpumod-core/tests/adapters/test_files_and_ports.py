"""Files, the clock, and who listens on a port."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters.clock import SystemClock
from gpumod.adapters.files import ensure_home, ensure_private_dir, free_disk_mb, home_id, write_atomic
from gpumod.adapters.ports_in_use import port_users, stranger_on
from gpumod.bootstrap import open_gpumod
from gpumod.domain.errors import Failed, MachineLacks
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_writes_in_another_users_folder_is_that_users(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 54321)
    ensure_private_dir(theirs / "folder")
    write_atomic(theirs / "folder" / "file", "x", 0o600)
    home_id(theirs)
    owners = {path: (path.stat().st_uid, path.stat().st_gid) for path in theirs.rglob("*")}
    assert len(owners) == 3
    assert set(owners.values()) == {(12345, 54321)}
    write_atomic(tmp_path / "mine", "x")
    assert (tmp_path / "mine").stat().st_uid == 0


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
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755, "what was there is not ours to close"
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/nothing")):
        with pytest.raises(Failed) as caught:
            ensure_private_dir(bad)
        assert caught.value.code == "bad-folder"


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o1700])
def test_a_shared_folder_becomes_no_home(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(MachineLacks) as caught:
        open_gpumod(tmp_path, {})
    assert caught.value.code == "no-home"
    assert "shared" in caught.value.info.why
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_becomes_no_home_even_for_root(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 12345, 12345)
    with pytest.raises(MachineLacks) as caught:
        open_gpumod(theirs, {})
    assert "another user" in caught.value.info.why
    assert not any(theirs.iterdir())
    (theirs / "home-id").write_text("0123456789ab\n")  # their home: root may look into it
    assert ensure_home(theirs, known_by=["home-id"]) == theirs
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755


def test_the_mode_of_a_home_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    open_gpumod(home, {})
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o755)
    open_gpumod(home, {})
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in home.iterdir()} == {0}


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
        user = port_users([port]).get(port)
        assert user is not None
        assert user.pid == os.getpid()
        assert user.name
    assert port_users([port]).get(port) is None


def test_another_process_is_named() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        user = port_users([told := int(process.stdout.readline())]).get(told)
        assert user is not None
        assert user.pid == process.pid
        process.kill()


@pytest.mark.parametrize(
    ("service", "same_id", "folder", "told"),
    [
        ("web", True, "services/web", ", service web of the gpumod home {home}"),
        ("web", True, "services/other", ", service web of the gpumod home with the id {id}"),
        ("web", False, "services/web", ", service web of the gpumod home with the id 0123456789ab"),
        ("../web", True, "services/web", ""),
    ],
)
def test_what_gpumod_started_is_told_with_its_home(
    tmp_path: Path, service: str, folder: str, told: str, *, same_id: bool
) -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    home_is = home_id(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    said = {"GPUMOD_SERVICE": service, "GPUMOD_HOME_ID": home_is if same_id else "0123456789ab"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **said},
        cwd=tmp_path / folder,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        user = port_users([port])[port]
        assert str(user).partition(f"(pid {process.pid})")[2] == told.format(home=tmp_path, id=home_is)
        process.kill()


@pytest.mark.parametrize("name", ["esc\x1bape", "no\udcfftext"])
def test_names_that_a_process_chose_to_deceive_are_not_told(tmp_path: Path, name: str) -> None:
    code = (
        "import ctypes, socket; ctypes.CDLL(None).prctl(15, b'a\\x1b\\xff', 0, 0, 0)\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    home = tmp_path / name
    (home / "services/web").mkdir(parents=True)
    said = {"GPUMOD_SERVICE": "web", "GPUMOD_HOME_ID": home_id(home)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **said},
        cwd=home / "services/web",
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        user = port_users([port])[port]
        process.kill()
    assert (user.name, user.service, user.home) == ("a??", "web", "")


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("asked", ["127.0.0.1", "0.0.0.0"])
def test_a_process_that_does_not_listen_yet_is_found(host: str, asked: str, *, reuse: bool) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        bound.bind((host, 0))
        port = bound.getsockname()[1]
        user = port_users([port], asked).get(port)
        assert user is not None
        assert "does not listen yet" in user.name
    assert port_users([port], asked).get(port) is None


def test_a_listener_on_another_address_counts_where_all_are_wanted() -> None:
    with socket.create_server(("127.0.0.9", 0)) as listening:
        port = listening.getsockname()[1]
        assert port_users([port]).get(port) is None
        user = port_users([port], "0.0.0.0").get(port)
        assert user is not None
        assert user.pid == os.getpid()


def _leave_lingering(*, reuse: bool) -> int:
    """A server that just ended, with a connection that it closed first (TIME_WAIT); its port."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        server.bind(("127.0.0.1", 0))
        server.listen()
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    return port


def test_what_a_server_left_behind_does_not_make_a_port_used() -> None:
    port = _leave_lingering(reuse=True)
    assert port_users([port]).get(port) is None
    with socket.create_server(("127.0.0.1", port)):  # which sets SO_REUSEADDR, as servers do
        assert port_users([port]).get(port) is not None


def test_what_is_left_behind_without_reuse_makes_a_port_used() -> None:
    port = _leave_lingering(reuse=False)
    user = port_users([port]).get(port)
    assert user is not None
    assert "just ended" in user.name
    with pytest.raises(OSError, match="in use"):  # no server could bind it either
        socket.create_server(("127.0.0.1", port))


def test_a_process_that_does_not_listen_yet_is_found_behind_what_lingers() -> None:
    port = _leave_lingering(reuse=True)
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("0.0.0.0", port))
        user = port_users([port]).get(port)
        assert user is not None
        assert "does not listen yet" in user.name


def test_a_connection_that_a_process_still_serves_makes_a_port_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        serving, _ = server.accept()
    with client, serving:
        user = port_users([port]).get(port)
        assert user is not None
        assert user.pid == os.getpid()


# --- who has it in the place of a service -----------------------------------------------------------------------------

LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
SLEEP = "print(flush=True); input()"


@contextmanager
def python(code: str) -> Iterator[tuple[int, str]]:
    """A process that runs `code`: its pid, and the line that it says first."""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()


def test_an_older_listener_is_a_stranger_and_the_service_itself_is_none() -> None:
    with python(LISTEN) as (pid, port):
        time.sleep(0.02)  # the kernel counts starts in hundredths of a second
        with python(SLEEP) as (service, _):
            found = stranger_on(int(port), [service])
            assert found is not None
            assert (found.pid, bool(found.name)) == (pid, True)
            assert stranger_on(int(port), [service, pid]) is None
    assert stranger_on(int(port), [pid]) is None


def test_a_younger_listener_may_be_of_the_service() -> None:
    with python(SLEEP) as (service, _):
        time.sleep(0.02)
        with python(LISTEN) as (_, port):
            assert stranger_on(int(port), [service]) is None
