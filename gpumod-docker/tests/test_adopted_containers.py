"""Containers of others over a stand-in of an engine: what is asked of it, and that it is asked for nothing else."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.api import Failed, GpumodError, Handle, Launch, MachineLacks, Service, Settings, UsageError
from gpumod.domain.adopted import Adopted
from gpumod_docker.adopted import AdoptedContainers
from gpumod_docker.looking import facts_of, published
from gpumod_docker.states import epoch_s

ID, OTHER = "a1" * 32, "b2" * 32
SOCKET = Path("/run/docker.sock")
LAUNCH = Launch(argv=("vllm", "serve"))


def seen(number: str = ID, name: str = "writer", **changes: Any) -> dict[str, Any]:
    """What an engine tells of a container that is down."""
    state = {"Status": "exited", "Running": False, "Pid": 0, "ExitCode": 0, "StartedAt": "2024-05-01T10:00:00.5Z"}
    state["FinishedAt"] = "2024-05-01T11:00:00.5Z"
    config = {"Env": ["API_TOKEN=hush", "MODE=fast", "odd"], "Labels": {}, "StopTimeout": 40, "Tty": True}
    host = {"NetworkMode": "bridge", "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7850"}]}}
    told = {"Id": number, "Name": f"/{name}", "Path": "vllm", "Args": ["serve", "acme/writer"]}
    return {**told, "State": state, "Config": config, "HostConfig": host, **changes}


class Engine:
    """Answers for `boxes`, and keeps what was `asked` of it but for looks. `system` is what it calls its machine;
    `since` are the times from when on a log was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boxes: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.system = "Debian GNU/Linux 12"
        self.since: list[float] = []

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        path = re.sub(r"^/v[0-9.]+", "", path)
        if "/logs?" in path:
            self.since.append(float(parse_qs(path.partition("?")[2])["since"][0]))
            return 200, None
        if path == "/version":
            return 200, {"ApiVersion": "1.41"}
        if path == "/info":
            return 200, {"OperatingSystem": self.system}
        if path.startswith("/containers/json"):
            return 200, [{"Id": one["Id"]} for one in self.boxes.values() if one["State"]["Running"]]
        match = re.fullmatch(r"/containers/([^/]+)/(json|start|stop)(\?.*)?", path)
        box = next((b for b in self.boxes.values() if match and match[1] in (b["Id"], b["Name"].strip("/"))), None)
        if match is None or match[2] != "json":
            self.asked.append(f"{method} {path}")
        if match is None or box is None:
            return 404, {"message": "No such container"}
        if match[2] != "json":
            up = match[2] == "start"
            box["State"] |= {"Running": up, "Status": "running" if up else "exited", "Pid": os.getpid() if up else 0}
            return 204, None
        return 200, box


@contextmanager
def listening() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder, "docker.sock"))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(*engine.answer(self.command, self.path))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.reply(*engine.answer(self.command, self.path))

            def reply(self, status: int, body: Any) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"" if body is None else json.dumps(body).encode())

            def log_message(self, *args: object) -> None:
                """Nobody reads it."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
                return super().get_request()[0], ("unix", 0)

        with Server(str(engine.path), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            yield engine
            server.shutdown()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The one in use."""
    with listening() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine


@pytest.fixture
def supervisor(tmp_path: Path) -> AdoptedContainers:
    return AdoptedContainers(tmp_path, "0123456789ab", Settings(), SystemClock())


def handle(number: str = ID, at: Engine | None = None, service: str = "svc") -> Handle:
    adopted = Adopted(container=number, name="writer", engine=str(at.path) if at else None)
    launched = Service(id=service, driver="vllm", port=7850, adopted=adopted)
    return Handle(service=service, supervisor="adopted-container", nonce="adopted", launched=launched, started_at=0.0)


async def test_it_is_started_and_stopped_by_its_id_and_asked_for_nothing_else(
    engine: Engine, supervisor: AdoptedContainers
) -> None:
    engine.boxes["writer"] = seen()
    assert not (await supervisor.status([handle()]))["svc"].alive
    supervisor.check(handle(), LAUNCH)
    token = await supervisor.start(handle(), LAUNCH, {"HF_TOKEN": "hush"})
    assert (token["container"], token["engine"]) == (ID, str(engine.path))
    status = (await supervisor.status([handle()]))["svc"]
    assert (status.alive, status.pid) == (True, os.getpid())
    await supervisor.stop(handle(), LAUNCH)
    await supervisor.stop(handle(), LAUNCH)  # nothing to stop
    assert engine.asked == [f"POST /containers/{ID}/start", f"POST /containers/{ID}/stop"]  # in its own time: no `t`
    assert (await supervisor.exited(handle())).alive is False


async def test_another_of_its_name_is_not_touched(engine: Engine, supervisor: AdoptedContainers) -> None:
    engine.boxes["writer"] = seen(OTHER)
    status = (await supervisor.status([handle()]))["svc"]
    assert (status.alive, "not there any more" in status.detail) == (False, True)
    with pytest.raises(Failed, match=r"container writer \(a1a1a1a1a1a1\)") as gone:
        supervisor.check(handle(), LAUNCH)
    assert gone.value.info.hint == "gpumod service release svc; gpumod service adopt writer --container --id svc"
    with pytest.raises(Failed):
        await supervisor.start(handle(), LAUNCH, {})
    await supervisor.stop(handle(), LAUNCH)
    assert engine.asked == []
    del engine.boxes["writer"]
    with pytest.raises(Failed) as gone:
        supervisor.check(handle(), LAUNCH)
    assert (gone.value.code, "ps -a" in gone.value.info.hint) == ("container-gone", True)


def test_what_is_no_name_is_not_asked_after(engine: Engine, supervisor: AdoptedContainers) -> None:
    engine.boxes["writer"] = seen()
    for name in ("", "../info", "a/json", "a b", "-x", "x" * 300, "a\n", "ü"):
        assert supervisor.container(name) is None
    found = supervisor.container("writer")
    assert found is not None
    assert found.id == ID
    assert supervisor.containers() == (), "it is down"
    engine.boxes["writer"]["State"] |= {"Running": True, "Pid": os.getpid()}
    assert [box.main_pid for box in supervisor.containers()] == [os.getpid()]
    assert engine.asked == []


def test_an_engine_in_a_virtual_machine_finds_none(engine: Engine, supervisor: AdoptedContainers) -> None:
    engine.system = "Docker Desktop"
    for ask in (
        supervisor.containers,
        lambda: supervisor.container("writer"),
        lambda: supervisor.check(handle(), LAUNCH),
    ):
        with pytest.raises(MachineLacks) as told:
            ask()
        assert told.value.code == "remote-engine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made use of")
async def test_root_starts_and_stops_nothing_that_another_users_home_names(
    engine: Engine, supervisor: AdoptedContainers, tmp_path: Path
) -> None:
    engine.boxes["writer"] = seen()
    os.chown(tmp_path, 12345, 12345)
    for doing in (
        supervisor.start(handle(), LAUNCH, {}),
        supervisor.stop(handle(), LAUNCH),
        supervisor.may([handle()]),
    ):
        with pytest.raises(MachineLacks) as told:
            await doing
        assert told.value.code == "anothers-home"
    supervisor.meet(handle())
    assert supervisor.logs(handle().service, 5) == ()
    assert engine.asked == []
    with listening() as other:
        other.boxes["writer"] = seen()
        with pytest.raises(MachineLacks, match="is not asked by root"):
            await supervisor.status([handle(at=other)])
        with pytest.raises(MachineLacks, match="is not asked by root"):
            supervisor.check(handle(at=other), LAUNCH)
        statuses = await supervisor.status([handle(at=other, service="theirs"), handle(at=engine)])
        assert "is not asked by root" in statuses["theirs"].detail
        assert statuses["svc"].alive is False


# --- between two runs ---------------------------------------------------------------------------------------------


async def test_one_that_is_about_to_be_restarted_runs_nothing_and_its_log_is_of_the_run_that_ended(
    engine: Engine, supervisor: AdoptedContainers
) -> None:
    """As engines tell of one with a restart policy, whose program has just ended."""
    engine.boxes["writer"] = box = seen(RestartCount=4)
    box["State"] |= {"Status": "restarting", "Running": True, "Restarting": True, "ExitCode": 137}
    status = (await supervisor.status([handle()]))["svc"]
    assert (status.alive, status.pid, status.pids, status.restarts, status.exit_code) == (True, None, (), 4, -9)
    assert status.detail == "its engine is about to restart it (4 restarts so far; it ended with exit code 137)"
    started, finished = epoch_s(box["State"]["StartedAt"]), epoch_s(box["State"]["FinishedAt"])
    assert started is not None
    supervisor.logs("svc", 5)
    box["State"] |= {"Status": "running", "Restarting": False, "Pid": os.getpid()}
    supervisor.logs("svc", 5)
    box["State"]["Pid"] = 0
    before = time.time()
    await supervisor.start(handle(), LAUNCH, {})
    supervisor.logs("svc", 5)  # of what was started here, why it was restarted is told, too
    assert engine.since[:2] == [pytest.approx(started - 0.1), finished]
    assert engine.since[2] == pytest.approx(before, abs=5)
    box["RestartCount"] = 0
    supervisor.logs("svc", 5)
    assert engine.since[3] == finished
    assert (await supervisor.status([handle()]))["svc"].restarts == 0


# --- several engines ----------------------------------------------------------------------------------------------


async def test_it_is_asked_of_the_engine_that_it_was_adopted_at(engine: Engine, supervisor: AdoptedContainers) -> None:
    with listening() as other:
        other.boxes["writer"] = seen()
        engine.boxes["writer"] = seen(OTHER)
        mine, theirs = handle(at=other), handle(OTHER, service="theirs")
        supervisor.check(mine, LAUNCH)
        assert (await supervisor.start(mine, LAUNCH, {}))["engine"] == str(other.path)
        statuses = await supervisor.status([mine, theirs])
        assert {service: status.alive for service, status in statuses.items()} == {"svc": True, "theirs": False}
        supervisor.logs("svc", 5)
        assert len(other.since) == 1
        assert supervisor.follow_command("svc", 5)[:3] == ("docker", "-H", other.url)
        await supervisor.stop(mine, LAUNCH)
        assert other.asked == [f"POST /containers/{ID}/start", f"POST /containers/{ID}/stop"]
        adopted = [one.launched.adopted for one in (mine, theirs, handle(at=engine))]
        assert [one is not None and supervisor.has(one) for one in adopted] == [True, True, False]
        other.boxes["writer"] = seen(OTHER)
        with pytest.raises(Failed) as gone:
            supervisor.check(mine, LAUNCH)
        assert f"; DOCKER_HOST={other.url} gpumod service adopt" in gone.value.info.hint
    await supervisor.may([theirs])
    with pytest.raises(MachineLacks):
        await supervisor.may([mine])
    with pytest.raises(MachineLacks):
        await supervisor.status([mine])
    statuses = await supervisor.status([mine, theirs])
    assert (statuses["svc"].alive, statuses["svc"].pids) == (True, ()), "it is not known, which is not stopped"
    assert "no container engine answers" in statuses["svc"].detail
    assert not statuses["theirs"].alive
    assert engine.asked == []


async def test_what_was_not_adopted_is_none_of_its_business(engine: Engine, supervisor: AdoptedContainers) -> None:
    plain = handle().model_copy(update={"launched": Service(id="svc", driver="vllm", port=7850)})
    with pytest.raises(UsageError) as told:
        await supervisor.status([plain])
    assert told.value.code == "not-adopted"
    with pytest.raises(GpumodError, match="are not written"):
        supervisor.write_files("svc", [])


# --- what it says of itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bindings", "found"),
    [
        ({"8000/tcp": [{"HostIp": "", "HostPort": "7850"}]}, {8000: 7850}),
        ({"8000": [{"HostIp": "0.0.0.0", "HostPort": "7850"}]}, {8000: 7850}),
        ({"8000/tcp": [{"HostIp": "::", "HostPort": "7"}, {"HostIp": "", "HostPort": "7850"}]}, {8000: 7850}),
        ({"8000/tcp": [{"HostIp": "::", "HostPort": "7850"}], "9/tcp": [{"HostIp": "::1", "HostPort": "9"}]}, {}),
        ({"8000/tcp": [{"HostIp": "192.168.1.5", "HostPort": "7850"}]}, {}),  # not at this machine's loopback
        ({"8000/udp": [{"HostIp": "", "HostPort": "7850"}]}, {}),
        ({"8000/tcp": [{"HostIp": "", "HostPort": ""}], "9/tcp": [{"HostPort": "0"}]}, {}),  # another at each start
        ({"8000/tcp": [{"HostIp": "", "HostPort": "7850-7860"}], "9/tcp": None}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_ports_are_those_of_the_loopback_that_stay(bindings: Any, found: dict[int, int]) -> None:
    assert published({"HostConfig": {"PortBindings": bindings}}) == found


@pytest.mark.parametrize(
    ("host", "visible", "gpus"),
    [
        ({"DeviceRequests": [{"Count": -1, "DeviceIDs": None}]}, "", ()),
        ({"DeviceRequests": [{"DeviceIDs": ["1", "GPU-8a-1"]}]}, "", ("1", "GPU-8a-1")),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1"]}]}, "", ("1",)),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]}, "", ()),
        ({"Runtime": "nvidia"}, "0,1", ("0", "1")),
        ({"Runtime": "nvidia"}, "all", ()),
        ({"Runtime": "runc"}, "0", ()),  # nobody reads it
        ({}, "", ()),
    ],
)
def test_gpus_are_those_that_it_was_given_by_name(host: dict[str, Any], visible: str, gpus: tuple[str, ...]) -> None:
    told = seen(HostConfig=host, Config={"Env": [f"NVIDIA_VISIBLE_DEVICES={visible}"], "Labels": None})
    assert facts_of(told, SOCKET).gpus == gpus


def test_what_is_told_of_one() -> None:
    mounts = [{"Type": "bind", "Source": "/srv/ai", "Destination": "/models"}, {"Type": "tmpfs", "Destination": "/tmp"}]
    labels = {"com.docker.compose.project": "media", "gpumod.home": "x"}
    host = {"NetworkMode": "host", "AutoRemove": True}
    facts = facts_of(seen(Mounts=mounts, HostConfig=host, Config={"Env": ["A=b=c", "odd"], "Labels": labels}), SOCKET)
    assert (facts.command.argv, facts.command.env) == (("vllm", "serve", "acme/writer"), {"A": "b=c"})
    assert (facts.mounts, facts.project) == ({"/models": "/srv/ai"}, "media")
    assert (facts.own, facts.passing, facts.shares_network, facts.pids) == (True, True, True, ())
    assert facts.engine == str(SOCKET)
