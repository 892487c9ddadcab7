"""Every text of a definition, with every hostile value: refused, or in the process byte for byte, and nothing else.

A value is put into each field of a service, and into each option of each driver, first by the front door and then by
hand in the database. What is not refused is started, by a switch, under each supervisor; then the process is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from gpumod.bootstrap import open_gpumod
from gpumod.cli.main import root
from gpumod.domain.base import is_id
from gpumod.domain.errors import GpumodError
from gpumod.operations.params import NoParams, SecretWrite, ServiceRemove, ServiceWrite
from gpumod_sim.machine import Machine as SimMachine
from tests.systemd.hostile_fields import OPTIONS, Definition, Field, Place, Seen, base, fields_of
from tests.systemd.hostile_values import CANARY, HOSTILE, REFUSED
from tests.systemd.users import User

if TYPE_CHECKING:
    from gpumod.operations.gpumod import Gpumod

pytestmark = [pytest.mark.sim, pytest.mark.timeout(400)]

COLUMNS = ("id", "driver", "port", "vram_mb", "role", "host")
FIRST_PORT = 31_000
NO_PROCESS = {
    *("health_endpoint", "/health_endpoint", "/unit_template", "/sleep_path", "/wake_path", "/activity_path"),
    *("model_id", "model_path", "/model_path"),
}
"""What may be accepted and reaches no process: paths that gpumod asks, a file, a model that no command names."""
RECORDER = """#!{python} -IS
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), backlog=99)
while True:
    client, _ = server.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{{}}")
    client.close()
"""


class Home:
    """A home whose services are all recorders: they serve, and are looked at in /proc."""

    def __init__(self, path: Path, place: Place, supervisor: str, scope: str | None) -> None:
        self.path, self.place, self.scope = path, place, scope
        self.run("init", "--yes", "--sim", "RTX 4090:24564")
        SimMachine(str(path / "sim")).configure(speed=500.0, lag_s=0.02, ram_mb=65_536)
        settings = {"vllm_bin": place.program, "llama_server_bin": place.program, "supervisor": supervisor}
        for key, value in settings.items():
            self.run("settings", "set", key, str(value))

    def run(self, *words: str) -> Any:
        done = CliRunner().invoke(root, ["--home", str(self.path), "--json", *words])
        assert done.exit_code == 0, done.output[-3000:]
        return json.loads(done.stdout)

    def rows(self, definitions: Mapping[str, Definition]) -> None:
        """These services and no other in the database, written by hand, and a mode of all."""
        with closing(sqlite3.connect(self.path / "gpumod.db")) as connection, connection:
            for table in ("mode_services", "modes", "services"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - one of these three
            for name, definition in definitions.items():
                rest = {key: value for key, value in definition.items() if key not in COLUMNS}
                values = [raw({"id": name, **definition}.get(column)) for column in COLUMNS]
                values += [json.dumps(rest), "[]", 0.0]
                marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, bytes) else "?" for value in values)
                columns = ", ".join((*COLUMNS, "definition", "user_edited", "updated_at"))
                connection.execute(f"INSERT INTO services ({columns}) VALUES ({marks})", values)  # noqa: S608
            connection.execute(
                "INSERT INTO modes (id, name, description, user_edited, updated_at) VALUES ('all', '', '', 0, 0)"
            )
            for position, name in enumerate(definitions):
                connection.execute(
                    "INSERT INTO mode_services (mode_id, position, service_id, want, start_order)"
                    " VALUES ('all', ?, ?, 'awake', 0)",
                    (position, raw(name)),
                )


def raw(value: Any) -> Any:
    """As SQLite takes it: what no text can hold, as bytes."""
    try:
        return value if not isinstance(value, str) or value.encode() else value
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="gpumod-hostile-", dir="/var/tmp"))
    folder.chmod(0o755)
    program = folder / "recorder"
    program.write_text(RECORDER.format(python=os.path.realpath(sys.executable)))
    program.chmod(0o755)
    for kind in ("cwd", "template", "program"):
        (folder / kind).mkdir(mode=0o755)
    Path(CANARY).unlink(missing_ok=True)
    yield Place(folder, program)
    shutil.rmtree(folder)


@pytest.fixture(
    params=[
        "process",
        *(pytest.param(way, marks=pytest.mark.systemd) for way in ("user", "system", "system, of a user")),
    ]
)
def home(request: pytest.FixtureRequest, place: Place) -> Iterator[Home]:
    if request.param == "system, of a user":
        ann: User = request.getfixturevalue("ann")
        home = Home(ann.home, place, "systemd-system", "system")
        allow = request.getfixturevalue("allow")
        allow(ann)
        yield home
        ann.gpumod("switch", "blank")
        return
    scope = None if request.param == "process" else request.param
    home = Home(place.folder / "home", place, f"systemd-{scope}" if scope else "process", scope)
    yield home
    home.run("switch", "blank")


def judged(home: Home, definitions: Mapping[str, Definition]) -> set[str]:
    """Those of `definitions` that can be started, when they stand in the database."""
    home.rows(definitions)
    gpumod = open_gpumod(home.path, {})
    checks = asyncio.run(gpumod.doctor(NoParams())).checks
    readable = {service.id for service in asyncio.run(gpumod.service_list(NoParams())).services}
    return readable - {check.name.removeprefix("service ") for check in checks if check.level == "problem"}


def each(field: Field, driver: str, place: Place) -> dict[str, Definition]:
    """A definition with each of the values in `field`, by an id; of the field `id` the value itself is that."""
    if field.name == "id":
        return {value: base(driver, place.program) for value in HOSTILE}
    return {f"h{n}": field.put(base(driver, place.program), value) for n, value in enumerate(HOSTILE)}


def value_of(name: str) -> str:
    return HOSTILE[int(name[1:])]


def test_the_values_are_hostile() -> None:
    assert len(set(HOSTILE)) >= 60
    assert not [value for value in HOSTILE if is_id(value)]


@pytest.mark.parametrize("driver", OPTIONS)
def test_the_front_door_and_the_database_refuse_the_same(place: Place, driver: str) -> None:
    home = Home(place.folder / "home", place, "process", None)
    for field in fields_of(driver, place):
        definitions = each(field, driver, place)
        home.rows({})
        gpumod = open_gpumod(home.path, {})
        added = {name for name, definition in definitions.items() if was_added(gpumod, name, definition)}
        by_hand = judged(home, definitions)
        if field.name == "id" or field.slot == "adopted":  # what is adopted comes by another door
            assert not added, field.name
            assert field.name != "id" or not by_hand
            continue
        assert by_hand <= added, (field.name, sorted(map(value_of, by_hand - added)))
        refused = {name for name in definitions if value_of(name) in REFUSED}
        assert not refused & added, (field.name, sorted(map(value_of, refused & added)))


def was_added(gpumod: Gpumod, name: str, definition: Definition) -> bool:
    """Whether `service add` takes it; then it is stored as it was given."""
    is_whole = isinstance(definition["unit_vars"], dict)
    fields = {key: value for key, value in definition.items() if key != "unit_vars" or not is_whole}
    options = definition["unit_vars"] if is_whole else {}
    try:
        shown = asyncio.run(gpumod.service_add(ServiceWrite(id=name, fields=fields, unit_vars=options)))
    except (GpumodError, ValidationError):
        return False
    stored = shown.service.model_dump(mode="json")
    assert {key: stored[key] for key in fields} == fields
    assert stored["unit_vars"] == options
    asyncio.run(gpumod.service_remove(ServiceRemove(service=name)))  # its port is the next one's
    return True
