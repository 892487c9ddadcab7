"""No engine, one that may not be used, one that is elsewhere: said clearly, with what to do."""

from __future__ import annotations

import http.server
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.api import Failed, Handle, Launch, LaunchFile, MachineLacks, Service, Settings
from gpumod_docker import engine
from gpumod_docker.containers import Containers
from gpumod_docker.states import why_ended
from gpumod_docker.supervisor import DockerSupervisor


@contextmanager
def answering(
    path: Path, body: bytes, then: tuple[int, bytes] | None = None, asked: list[str] | None = None
) -> Iterator[None]:
    """Something that is no engine, or one that answers everything but its version with `then`; `asked` is what of."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(*((200, body) if then is None or self.path.endswith("/version") else then))

        def do_POST(self) -> None:
            self.answer(*(then or (404, b"{}")))

        def answer(self, status: int, text: bytes) -> None:
            if asked is not None:
                asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            return super().get_request()[0], ("unix", 0)

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{found}")
    return found


def test_where_there_is_none(path: Path) -> None:
    with pytest.raises(MachineLacks) as caught:
        engine.reach(engine.socket_path())
    info = caught.value.info
    assert (info.code, f"there is no {path}" in info.why, "DOCKER_HOST" in info.hint) == ("no-engine", True, True)


def test_a_socket_that_nobody_listens_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(MachineLacks, match="no container engine answers") as caught:
        engine.reach(path)
    assert "refused" in caught.value.info.why


def test_one_that_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for told in ("tcp://10.0.0.1:2375", "ssh://hub", "http+unix:///x"):
        monkeypatch.setenv("DOCKER_HOST", told)
        with pytest.raises(MachineLacks) as caught:
            engine.socket_path()
        assert (caught.value.code, told in caught.value.info.message) == ("remote-engine", True)


def test_one_in_a_virtual_machine_is_elsewhere_too(path: Path) -> None:
    """Told before anything is stopped."""
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a"})
    supervisor = DockerSupervisor(path.parent / "home", "0123456789ab", Settings(), SystemClock())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    version = b'{"ApiVersion": "1.41"}'
    with answering(path, version, (200, b'{"OperatingSystem": "Docker Desktop"}')), pytest.raises(MachineLacks) as told:
        supervisor.check(handle, Launch(argv=("serve",)))
    assert told.value.code == "remote-engine"
    path.unlink()
    with answering(path, version, (200, b'{"OperatingSystem": "Debian GNU/Linux 12"}')):
        supervisor.check(handle, Launch(argv=("serve",)))


def test_a_folder_of_the_engines_is_told_before_anything_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    options = {"image": "a", "volumes": [f"{tmp_path}:/x"]}
    service = Service(id="svc", driver="docker", port=7850, unit_vars=options)
    supervisor = DockerSupervisor(Path("/nowhere"), "0123456789ab", Settings(), SystemClock())
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    with tempfile.TemporaryDirectory() as elsewhere:  # the socket itself is kept out of containers
        socket_there = Path(elsewhere, "docker.sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket_there}")
        info = f'{{"DockerRootDir": "{data}"}}'.encode()
        with answering(socket_there, b'{"ApiVersion": "1.41"}', (200, info)), pytest.raises(Failed) as told:
            supervisor.check(handle, Launch(argv=("serve",)))
    assert told.value.code == "unsafe-volume"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_one_that_this_user_may_not_use() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        path = Path(folder, "docker.sock")
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o660)
        assert path.owner() == path.group() == "root"  # what that needs is imported while it can be read
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                engine.reach(path)
            except MachineLacks as error:
                told = f"{error.info.why} {error.info.hint}"
                code = 0 if error.code == "no-engine-rights" and "group root" in told and "join" in told else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_a_session_of_anothers_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """`su` leaves the variable of whoever called it."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with tempfile.TemporaryDirectory() as folder:  # root's, and closed
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                code = 0 if engine.socket_path() == Path(engine.USUAL) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("body", [b"hello", b"{}", b'{"ApiVersion": "0.1"}', b'{"ApiVersion": 7}', b"[]"])
def test_something_that_is_no_engine(path: Path, body: bytes) -> None:
    with answering(path, body), pytest.raises((MachineLacks, Failed)) as caught, engine.spoken(path, "tell"):
        raise AssertionError("it took that for an engine")
    assert caught.value.code == "no-engine"


def test_an_engine_that_hangs_up(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(MachineLacks) as caught, engine.spoken(path, "tell"):
            raise AssertionError("it took that for an engine")
        assert caught.value.code == "no-engine"
        listener.shutdown(socket.SHUT_RDWR)


def test_why_a_container_did_not_start_is_told_though_it_cannot_be_removed_either(path: Path) -> None:
    refused = (500, b'{"message": "driver failed: Bind for 127.0.0.1:7850 failed: port is already allocated"}')
    with answering(path, b'{"ApiVersion": "1.41"}', refused), pytest.raises(Failed) as caught:
        Containers(path, "0123456789ab").start("svc", "abc")
    assert caught.value.code == "port-taken"


@pytest.mark.parametrize("text", [b"{}", b"[]", b"null", b"<html>", b'{"message": 7}'])
def test_a_refusal_that_makes_no_sense(path: Path, text: bytes) -> None:
    with answering(path, b'{"ApiVersion": "1.41"}', (502, text)), pytest.raises(Failed) as caught:
        Containers(path, "0123456789ab").start("svc", "abc")
    assert caught.value.code in ("engine-failed", "engine-refused")


def test_where_there_is_no_engine_its_sdk_is_not_imported(path: Path) -> None:
    """Every removal of a service, and every doctor, asks also this supervisor."""
    code = f"""
        import asyncio, sys, time
        from pathlib import Path
        from gpumod.api import MachineLacks, Settings
        from gpumod_docker.supervisor import DockerSupervisor
        supervisor = DockerSupervisor(Path({str(path.parent)!r}), "0123456789ab", Settings(), time)
        for asked in (supervisor.forget("svc"), supervisor.strays([])):
            try:
                asyncio.run(asked)
            except MachineLacks as error:
                print(error.code)
        print("docker" in sys.modules, "requests" in sys.modules)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert told.stdout.split() == ["no-engine", "no-engine", "False", "False"], told


@pytest.mark.parametrize("code", [1, 125, 126, 127])
def test_an_exit_code_is_not_explained_where_the_log_tells_more(code: int) -> None:
    """A shell's 127 is not a program that the image lacks: that is told at the start."""
    ended = {"Status": "exited", "ExitCode": code, "Error": ""}
    assert why_ended({"State": ended}) == ""
    assert why_ended({"State": ended | {"Error": "no space left"}}) == "no space left"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
async def test_root_leaves_another_users_home_alone(path: Path, tmp_path: Path) -> None:
    """A link of that user's would lead what root writes or removes anywhere."""
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away / "svc"):
        folder.mkdir(parents=True)
    for name in ("services", "containers"):
        (home / name).symlink_to(away)
    supervisor = DockerSupervisor(home, "0123456789ab", Settings(), SystemClock())
    os.chown(home, 12345, 12345)
    with answering(path, b'{"ApiVersion": "1.41"}', (404, b'{"message": "No such container"}')):
        with pytest.raises(MachineLacks) as caught:
            supervisor.write_files("svc", [LaunchFile(name="models.ini", content="[a]")])
        with pytest.raises(MachineLacks, match="not stopped by root"):
            await supervisor.forget("svc")
        assert [place.name for place in away.rglob("*")] == ["svc"]
        os.chown(home, 0, 0)
        os.chown(tmp_path, 12345, 12345)  # whose folder it lies in says what it is
        with pytest.raises(MachineLacks):
            await supervisor.forget("svc")
        assert any(away.iterdir())
        os.chown(tmp_path, 0, 0)
        (linked := tmp_path / "linked").symlink_to(home)  # root's own link, to that user's home
        os.chown(home, 12345, 12345)
        with pytest.raises(MachineLacks):
            DockerSupervisor(linked, "0123456789ab", Settings(), SystemClock()).write_files("svc", [])
        os.chown(home, 0, 0)
        assert await supervisor.forget("svc")
    assert caught.value.code == "anothers-home"
    assert not any(away.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have another user's home")
async def test_root_ends_no_container_that_another_users_home_names(path: Path, tmp_path: Path) -> None:
    """That home could have the id of another, and with it the names of its containers."""
    (home := tmp_path / "home").mkdir()
    os.chown(home, 12345, 12345)
    supervisor = DockerSupervisor(home, "0123456789ab", Settings(), SystemClock())
    service = Service(id="svc", driver="docker", port=7850, unit_vars={"image": "a"})
    handle = Handle(service="svc", supervisor="docker", nonce="n", launched=service, started_at=0.0)
    asked: list[str] = []
    with answering(path, b'{"ApiVersion": "1.41"}', (404, b'{"message": "No such container"}'), asked):
        for act in (supervisor.may([handle]), supervisor.stop(handle, Launch(argv=("serve",)))):
            with pytest.raises(MachineLacks, match="not stopped by root"):
                await act
        assert asked == []
        os.chown(home, 0, 0)
        await supervisor.may([handle])
        await supervisor.stop(handle, Launch(argv=("serve",)))
    assert any("gpumod-svc" in one for one in asked)
