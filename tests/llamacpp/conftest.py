"""Machines on which a real llama-server runs real models, kept by the process supervisor or by a real systemd."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.http import LoopbackHttp
from tests.llamacpp import ram_card, tiny_gguf
from tests.machine.conftest import CARD, Machine, Ports, fetch, until, wait_until

__all__ = ["HTTP", "until"]

HTTP = LoopbackHttp()
KEEPERS = [pytest.param("process"), pytest.param("systemd-system", marks=pytest.mark.systemd)]
EVERY_KEEPER = [*KEEPERS, pytest.param("systemd-user", marks=pytest.mark.systemd)]
TINY_MB, LARGE_MB = 60, 420
"""What the models take, at most; `ram_card` has room for one large one and a few tiny ones."""


class RealMachine(Machine):
    """A home whose llama-server is a real one, and whose card is host memory. `box` is its router."""

    def __init__(self, folder: Path, ports: Sequence[int], keeper: str, program: Path, models: Path) -> None:
        super().__init__(folder, CARD, ports)
        self.models = models
        self.ok("settings", "set", "gpu_probe", "ram-card")
        self.ok("settings", "set", "llama_server_bin", str(program))
        self.ok("settings", "set", "supervisor", keeper)
        self.router_port = self.unused.pop()
        self.ports["box"] = self.router_port
        self.add("box", "--port", str(self.router_port), "--set", "router=true", "--startup-timeout", "60")

    def add(self, service: str, *words: str) -> None:
        self.ok("service", "add", "--id", service, "--driver", "llamacpp", *words)

    def add_member(
        self, service: str, model: str = "tiny", *words: str, vram_mb: int = TINY_MB, extra: Sequence[str] = ()
    ) -> None:
        """A member of `box` with a model of `models`, on one thread: more would wait for one another."""
        lasting = ("--sleep-mode", "router", "--context-size", "2048", "--startup-timeout", "60")
        options = ("--set", "parallel=1", "--set", f"extra_args={json.dumps(['--threads', '1', *extra])}")
        path = str(self.models / f"{model}.gguf")
        where = ("--host-service", "box", "--vram-mb", str(vram_mb), "--model-path", path)
        self.add(service, *where, *lasting, *options, *words)

    def add_large(self, service: str) -> None:
        """A member with a large model, which is read into memory of its own."""
        self.add_member(service, "large", vram_mb=LARGE_MB, extra=("--load-mode", "none", "--no-warmup"))

    def row(self, service: str) -> Any:
        return next(row for row in self.status()["services"] if row["id"] == service)

    def pid(self, service: str) -> int:
        pid: int = self.row(service)["pid"]
        return pid

    def held(self) -> dict[str, int]:
        """MiB by service, as gpumod attributes what is on the card."""
        rows = [row for row in self.ok("ps").json["processes"] if row["vram_mb"]]  # the router has none
        total: dict[str, int] = {}
        for row in rows:
            name = row["service"] or f"nobody:{row['pid']}"
            total[name] = total.get(name, 0) + row["vram_mb"]
        return total

    def listed(self) -> dict[str, Any]:
        """The router's own word on its models, by id."""
        models = json.loads(fetch(f"http://127.0.0.1:{self.router_port}/models"))["data"]
        return {model["id"]: model["status"] for model in models}

    def complete(self, service: str, tokens: int = 4, port: int | None = None) -> Any:
        """A completion of exactly so many tokens."""
        body = {"model": service, "prompt": "hi", "max_tokens": tokens, "ignore_eos": True}
        return json.loads(fetch(f"http://127.0.0.1:{port or self.router_port}/v1/completions", body))

    def busy(self, service: str) -> bool:
        """Whether a request is under way at a member, without loading or waking it."""
        query = f"model={service}&autoload=false"
        text = fetch(f"http://127.0.0.1:{self.router_port}/metrics?{query}")
        return any(
            line.startswith("llamacpp:requests_processing ") and line.endswith("1") for line in text.splitlines()
        )

    def nothing_left(self) -> None:
        super().nothing_left()
        assert self.held() == {}


class Asking:
    """A request in a thread of its own; `answer` is the reply, or the exception."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._act()
        except Exception as error:
            self.answer = error

    def done(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive(), "it is not answered"
        return self.answer


@pytest.fixture(scope="session")
def program() -> Path:
    """The real llama-server."""
    named = os.environ.get("GPUMOD_TEST_LLAMA_SERVER")
    if not named:
        pytest.fail("GPUMOD_TEST_LLAMA_SERVER names no llama-server: nox -s real-llamacpp")
    return Path(named)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny`, `large`, and what cannot be loaded (`corrupt-*`)."""
    folder = tmp_path_factory.mktemp("models")
    tiny = tiny_gguf.write_llama(folder / "tiny.gguf")
    tiny_gguf.write_large(folder / "large.gguf")
    tiny_gguf.write_broken(folder, tiny)
    return folder


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card of this test alone, found as a plugin by this process and by every gpumod that it starts."""
    found = tmp_path / "plugins" / "ram_card-0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: ram-card\nVersion: 0\n")
    (found / "entry_points.txt").write_text(f"[gpumod]\nram-card = {ram_card.__name__}\n")
    monkeypatch.syspath_prepend(str(found.parent))
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(found.parent), str(root)]))
    folder = tmp_path / "m" / "card"
    folder.mkdir(parents=True)
    monkeypatch.setenv(ram_card.FOLDER, str(folder))
    return folder


@pytest.fixture(params=KEEPERS)
def keeper(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def real(
    keeper: str, card: Path, program: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealMachine]:
    """A machine with a router `box`, and no members yet."""
    for name in [name for name in os.environ if name.startswith("GPUMOD_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    ports = Ports()
    machine = RealMachine(card.parent, ports.numbers, keeper, program, models)
    try:
        yield machine
    finally:
        try:
            machine.close()
            wait_until(lambda: not machine.processes(), "the last process to end")
        finally:
            ports.close()
