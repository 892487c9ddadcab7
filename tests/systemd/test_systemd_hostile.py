"""Every text of a definition, with every hostile value: refused, or in the process byte for byte, and nothing else.

A value is put into each field of a service, and into each option of each driver, first by the front door and then by
hand in the database. What is not refused is started, by a switch, under each supervisor; then the process is asked.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from gpumod.adapters.presets.expand import escape_paths
from gpumod.bootstrap import open_gpumod
from gpumod.cli.main import root
from gpumod.domain.base import is_id
from gpumod.domain.errors import GpumodError
from gpumod.operations.params import NoParams, SecretWrite, ServiceWrite, UnitParams
from gpumod_sim.machine import Machine as SimMachine
from tests.systemd.hostile_fields import OPTIONS, Definition, Field, Place, Seen, base, fields_of
from tests.systemd.hostile_values import CANARY, HOSTILE, REFUSED
from tests.systemd.users import User, documented, needs_polkit

if TYPE_CHECKING:
    from gpumod.operations.gpumod import Gpumod

pytestmark = [pytest.mark.sim, pytest.mark.timeout(400)]

NEVER = (
    "ExecCondition",
    "ExecStartPre",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "SupplementaryGroups",
    "RootDirectory",
)
COLUMNS = ("id", "driver", "port", "vram_mb", "role", "host")
FIRST_PORT = 24_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Each of several workers has ports of its own."""
NO_PROCESS = {
    *("health_endpoint", "/health_endpoint", "/unit_template", "/sleep_path", "/wake_path", "/activity_path"),
    *("model_id", "model_path", "/model_path"),
    *("option sleep_body", "option wake_body", "option asleep_field", "option asleep_value"),
}
"""What may be accepted and reaches no process: what gpumod asks, and reads in answers; a file; a model that no command
names."""
RECORDER = """#!{python} -IS
import sys
if sys.argv[-1] == "--version":
    sys.exit()
import socket
server = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), backlog=99)
while True:
    client, _ = server.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{{}}")
    client.close()
"""


class Home:
    """A home whose services are all recorders: they serve, and are looked at in /proc."""

    user = ""

    def __init__(self, path: Path, place: Place, supervisor: str, scope: str | None) -> None:
        self.path, self.place, self.scope = path, place, scope
        self.run("init", "--yes", "--sim", "RTX 4090:24564")
        SimMachine(str(path / "sim")).configure(speed=500.0, lag_s=0.02, ram_mb=65_536)
        settings = {"vllm_bin": place.program, "llama_server_bin": place.program, "supervisor": supervisor}
        for key, value in settings.items():
            self.run("settings", "set", key, str(value))

    def run(self, *words: str) -> Any:
        done = CliRunner().invoke(root, ["--home", str(self.path), "--json", *words])
        assert done.exit_code == 0, json.loads(done.stdout).get("error")
        return json.loads(done.stdout)

    def rows(self, definitions: Mapping[str, Definition]) -> None:
        """These services and no other in the database, written by hand, and a mode of all."""
        with closing(sqlite3.connect(self.path / "gpumod.db")) as connection, connection:
            connection.execute("DELETE FROM mode_services")
            connection.execute("DELETE FROM modes WHERE id <> 'blank'")
            connection.execute("DELETE FROM services")
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

    def secrets(self, service: str) -> dict[bytes, bytes]:
        """Give a service every value as a secret; what must come of those that were not refused."""
        gpumod, folder = open_gpumod(self.path, {}), str(self.path / "services" / service)
        kept = {}
        for n, value in enumerate(HOSTILE):
            with suppress(GpumodError, ValidationError):
                asked = SecretWrite(service=service, name=f"SECRET_{n}", value=SecretStr(value))
                asyncio.run(gpumod.secret_set(asked))
                kept[b"SECRET_%d" % n] = value.replace("{service_dir}", folder).encode()
        assert len(kept) == len(HOSTILE) - 3  # an empty one, and two that are no text
        return kept

    def start(self, services: Iterable[str]) -> dict[str, int]:
        """Have all of them up, by a switch; their processes."""
        self.switch("all")
        rows = self.run("status")["services"]
        pids = {row["id"]: row["pid"] for row in rows if row["state"] == "running"}
        assert set(pids) == set(services)
        return pids

    def switch(self, mode: str) -> None:
        self.run("switch", mode)

    def seen(self, pids: Mapping[str, int]) -> dict[str, Seen]:
        """What became of each service, and that nothing else runs, ran or would run in its unit."""
        shown = self.shown(pids)
        found = {}
        for service, pid in pids.items():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2:-1]  # without what #! put before
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]
            env = {name: value for name, _, value in (entry.partition(b"=") for entry in entries)}
            cwd = Path(f"/proc/{pid}/cwd").stat()  # by what it is: a hardened service sees other mounts
            told = shown.get(service, {})
            found[service] = Seen(words, env, cwd, told.get("Description"))
            if self.scope is not None:
                assert not [name for name in NEVER if told.get(name)]
                assert told["ExecStart"].count("{ path=") == told["ExecStopPost"].count("{ path=") == 1
                assert told["User"] == self.user
                group = Path("/sys/fs/cgroup" + told["ControlGroup"]) / "cgroup.procs"
                assert group.read_text().split() == [str(pid)]
        return found

    def shown(self, services: Iterable[str]) -> dict[str, dict[str, str]]:
        """What systemd says of the services' units."""
        if self.scope is None:
            return {}
        home_id = (self.path / "home-id").read_text().strip()
        names = {f"gpumod-{service}.{home_id}.service": service for service in services}
        wanted = ",".join(("Id", "Description", "ExecStart", "ExecStopPost", "ControlGroup", "User", *NEVER))
        words = ["systemctl", *(["--user"] if self.scope == "user" else []), "show", "--all", "-p", wanted, *names]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.removesuffix("\n")
        blocks = [dict(line.split("=", 1) for line in block.split("\n")) for block in told.split("\n\n")]
        return {names[block["Id"]]: block for block in blocks}


class UsersHome(Home):
    """The same of a user without rights, under the system's manager: root writes units, the user switches."""

    def __init__(self, user: User, place: Place) -> None:
        self.owner, self.user = user, user.name
        super().__init__(user.home, place, "systemd-system", "system")
        for path in (user.home, *user.home.rglob("*")):  # what the simulated machine is told by root stays the user's
            os.chown(path, user.entry.pw_uid, user.entry.pw_gid)

    def switch(self, mode: str) -> None:
        self.owner.gpumod("switch", mode)

    def start(self, services: Iterable[str]) -> dict[str, int]:
        gpumod = open_gpumod(self.path, {})
        for service in services:
            asyncio.run(gpumod.service_unit(UnitParams(service=service, write=True)))
        return super().start(services)


def raw(value: Any) -> Any:
    """As SQLite takes it: what no text can hold, as bytes."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


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


WAYS = [
    # each driver's options once, and each supervisor's way, which is the same for every driver
    pytest.param("process", "fastapi", marks=pytest.mark.slow),
    *(pytest.param("user", driver, marks=pytest.mark.systemd) for driver in OPTIONS if driver != "fastapi"),
    pytest.param("system", "fastapi", marks=pytest.mark.systemd),
    pytest.param("system, of a user", "fastapi", marks=[pytest.mark.systemd, needs_polkit]),
]


@pytest.fixture
def home(request: pytest.FixtureRequest, place: Place) -> Iterator[Home]:
    if request.param == "system, of a user":
        ann: User = request.getfixturevalue("ann")
        request.getfixturevalue("allow")(documented(ann))
        home = UsersHome(ann, place)
        yield home
        home.switch("blank")
        return
    scope = None if request.param == "process" else request.param
    home = Home(place.folder / "home", place, f"systemd-{scope}" if scope else "process", scope)
    yield home
    home.switch("blank")


def judged(home: Home, definitions: Mapping[str, Definition]) -> set[str]:
    """Those of `definitions` that can be started, when they stand in the database."""
    home.rows(definitions)
    gpumod = open_gpumod(home.path, {})
    checks = asyncio.run(gpumod.doctor(NoParams())).checks
    readable = {service.id for service in asyncio.run(gpumod.service_list(NoParams())).services}
    return readable - {check.name.removeprefix("service ") for check in checks if check.level == "problem"}


def each(field: Field, driver: str, place: Place) -> dict[str, Definition]:
    """A definition with each of the values in `field`, by an id; of the field `id` the value itself is that."""
    made = {value: base(driver, place.program, FIRST_PORT + n) for n, value in enumerate(HOSTILE)}
    if field.name == "id":
        return made
    return {f"h{n}": field.put(made[value], value) for n, value in enumerate(HOSTILE)}


def value_of(name: str) -> str:
    return HOSTILE[int(name[1:])]


def test_the_values_are_hostile() -> None:
    assert len(set(HOSTILE)) >= 60
    assert not [value for value in HOSTILE if is_id(value)]


@pytest.mark.slow
@pytest.mark.parametrize("driver", OPTIONS)
def test_the_front_door_and_the_database_refuse_the_same(place: Place, driver: str) -> None:
    home = Home(place.folder / "home", place, "process", None)
    for field in fields_of(driver, place):
        if driver != "fastapi" and not field.name.startswith(("option", "extra", "/mm")):
            continue  # of every service alike
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
    """Whether `service add` takes it; then it is stored as it was given. In paths a dollar is typed twice."""
    typed = escape_paths(definition)
    options = typed.pop("unit_vars")
    try:
        shown = asyncio.run(gpumod.service_add(ServiceWrite(id=name, fields=typed, unit_vars=options)))
    except (GpumodError, ValidationError):
        return False
    stored = shown.service.model_dump(mode="json")
    assert {key: stored[key] for key in definition} == definition
    return True


@pytest.mark.parametrize(
    "driver", [pytest.param("fastapi", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.systemd)]
)
def test_what_is_adopted_by_hand_starts_nothing(place: Place, driver: str) -> None:
    home = Home(place.folder / "home", place, "process", None)
    asked = 0
    for field in (field for field in fields_of(driver, place) if field.slot == "adopted"):
        home.rows(each(field, driver, place))
        for service in home.run("service", "list")["services"]:
            assert value_of(service["id"]) not in REFUSED
            done = CliRunner().invoke(root, ["--home", str(home.path), "--json", "service", "start", service["id"]])
            assert done.exit_code != 0
            code = json.loads(done.stdout)["error"]["code"]
            assert code in ("unit-gone", "cannot-start-adopted", "no-systemd", "no-engine")
            asked += 1
    assert asked > 40
    assert not Path(CANARY).exists()


# --- what the process gets ------------------------------------------------------------------------------------------


def ways(home: Home, driver: str) -> list[tuple[str, list[Field]]]:
    """Each value with fields that do not refuse it, at most one of a slot: as often as it takes to have them all."""
    taken: dict[str, list[list[Field]]] = {value: [] for value in HOSTILE}
    for field in fields_of(driver, home.place):
        good = judged(home, each(field, driver, home.place)) if field.slot != "adopted" else set()
        for value in (HOSTILE[int(name[1:])] for name in good):
            free = next((fields for fields in taken[value] if all(f.slot != field.slot for f in fields)), None)
            if free is None:
                taken[value].append(free := [])
            free.append(field)
    assert not [value for value in REFUSED if taken[value]]
    return [(value, fields) for value in HOSTILE for fields in taken[value]]


@pytest.mark.parametrize(("home", "driver"), WAYS, indirect=["home"])
def test_what_is_not_refused_arrives_byte_for_byte(home: Home, driver: str) -> None:
    """All of it is started by one switch. One service has every value as a secret besides."""
    services = {f"v{n}": way for n, way in enumerate(ways(home, driver))}
    tellers = {field.name for _, fields in services.values() for field in fields if field.arrives}
    silent = {field.name for _, fields in services.values() for field in fields} - tellers
    assert silent <= NO_PROCESS, "nobody says where these arrive"
    assert tellers >= TOLD[driver]

    definitions = {}
    for n, (service, (value, fields)) in enumerate(services.items()):
        whole = base(driver, home.place.program, FIRST_PORT + n)
        definitions[service] = functools.reduce(lambda d, field, v=value: field.put(d, v), fields, whole)
    home.rows({"v0": definitions["v0"]})
    secrets = home.secrets("v0")
    home.rows(definitions)
    for service, seen in home.seen(home.start(definitions)).items():
        value, fields = services[service]
        filled = value.replace("{service_dir}", str(home.path / "services" / service))
        for field in fields:
            told = value if field.name == "name" else filled
            assert field.arrives is None or field.arrives(seen, told.encode()), (field.name, value, seen)
        assert {name: seen.env.get(name) for name in secrets} == (
            secrets if service == "v0" else dict.fromkeys(secrets)
        )
    assert not Path(CANARY).exists()


TOLD = {
    "fastapi": {"name", "command words", "command line", "program", "/cwd", "env value", "env words"},
    "vllm": {"name", "model_id", "model_path", "/model_path", "option served_model_name", "extra word", "env value"},
    "llamacpp": {"name", "/model_path", "option cache_type_k", "/mmproj", "extra word", "extra line", "env value"},
}
"""Some of what must be told to a process: else this test would pass where all is refused."""
