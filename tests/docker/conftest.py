"""One engine for all tests of this folder, and benches of containers on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.clock import SystemClock
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.testing.supervisor_bench import Bench
from gpumod_docker.supervisor import DockerSupervisor
from tests.docker.dockerd import PYTHON, Dockerd, lacking
from tests.machine.conftest import driver, machine, make_machine, until

__all__ = ["driver", "machine", "make_machine", "until"]
HOME_ID = "0123456789ab"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    missing = lacking()
    if not missing:
        return
    for item in items:
        if item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.skip(reason=f"an engine of its own needs {', '.join(missing)}"))


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    folder = Path(tempfile.mkdtemp(prefix="gpumod-dk-"))
    told = os.environ.get("GPUMOD_TEST_DOCKER_DATA")
    daemon = Dockerd(folder, Path(told) if told else None)
    daemon.start()
    try:
        daemon.make_images()
        yield daemon
    finally:
        names = daemon.said("ps", "-aq").split()
        if names:
            daemon.docker("rm", "-f", *names)
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def engine(dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """The engine, told to whoever asks the environment; without containers before and after."""
    monkeypatch.setenv("DOCKER_HOST", dockerd.url)
    yield dockerd
    if names := dockerd.said("ps", "-aq").split():
        dockerd.docker("rm", "-f", *names)


class ContainerBench(Bench):
    """A bench whose snippets run in containers. Their processes are looked for by their control group alone."""

    supervisor: DockerSupervisor

    def __init__(self, home: Path, engine: Dockerd, home_id: str = HOME_ID) -> None:
        self.engine = engine
        self.container: dict[str, Any] = {"image": PYTHON}
        home.mkdir(mode=0o700, exist_ok=True)
        super().__init__(home, lambda home, settings: DockerSupervisor(home, home_id, settings, SystemClock()))
        self.home_id = home_id

    def another(self) -> DockerSupervisor:
        made = super().another()
        assert isinstance(made, DockerSupervisor)
        return made

    def handle(self, service: str = "svc") -> Handle:
        handle = super().handle(service)
        launched = Service(id=service, driver="fastapi", unit_vars={"container": self.container})
        handle = handle.model_copy(update={"launched": launched})
        self.handles[-1] = handle
        return handle

    def name(self, service: str = "svc") -> str:
        return f"gpumod-{service}.{self.home_id}"

    def inspect(self, service: str = "svc", what: str = "{{.Id}}") -> str:
        return self.engine.said("inspect", "-f", what, self.name(service))

    def living(self, handle: Handle) -> list[int]:
        done = self.engine.docker("inspect", "-f", "{{.Id}}", self.name(handle.service), check=False)
        mark = done.stdout.decode().strip()
        found = []
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if place.name.isdigit() and mark and mark in (place / "cgroup").read_text():
                    found.append(int(place.name))
        return found

    async def told_pids(self, handle: Handle, count: int) -> set[int]:
        """Processes number themselves by their own namespace: found on this machine by the last of `NSpid`."""
        inner = await super().told_pids(handle, count)
        found = set()
        for pid in self.living(handle):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                if int(next(line for line in lines if line.startswith("NSpid")).split()[-1]) in inner:
                    found.add(pid)
        return found

    def sweep(self) -> None:
        for service in {handle.service for handle in self.handles}:
            self.engine.docker("rm", "-f", self.name(service), check=False)
        for handle in self.handles:
            for pid in self.living(handle):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def bench(engine: Dockerd, tmp_path: Path) -> AsyncIterator[ContainerBench]:
    bench = ContainerBench(tmp_path / "home", engine)
    yield bench
    bench.sweep()
