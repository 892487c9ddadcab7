"""The README's commands run as shown, and docs/configuration.md names every setting with its default."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.bootstrap import open_gpumod
from gpumod.domain.settings import Settings
from gpumod.operations.params import NoParams, ServiceWrite
from tests.docs.pages import ROOT, commands, gpumod, run


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def move_ports(home: Path) -> None:
    g = open_gpumod(home, {})
    for service in (await g.service_list(NoParams())).services:
        if service.port is not None:
            await g.service_edit(ServiceWrite(id=service.id, fields={"port": free_port()}))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    gpumod(folder, "switch", "blank")
    assert json.loads(gpumod(folder, "sim", "ledger", "--json").stdout)["allocations"] == []


def test_the_readmes_commands_run_as_shown(home: Path) -> None:
    shown = commands("README.md")
    assert len(shown) >= 15
    for args, code in shown:
        run(home, args, code)
        if args[0] == "init":  # other tests, or people, may use the presets' own ports at this moment
            gpumod(home, "sim", "speed", "500")
            asyncio.run(move_ports(home))


def test_the_readme_leads_with_the_demo_and_the_tests() -> None:
    first, second = re.findall(r"^```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[:2]
    assert first == "pip install nox && nox -s demo"
    assert second == "pip install nox && nox -s tests"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S*) ?\| ", text, re.MULTILINE))
    expected = {key: "" if f.default is None else str(f.default) for key, f in Settings.model_fields.items()}
    assert rows == expected
