"""Any text reaches a unit as itself: what systemd read of it, asked over its bus, is what went in."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumod.adapters.launches import Resolved
from gpumod.adapters.systemd.envfile import environment_text
from gpumod.adapters.systemd.rendering import Rendering
from gpumod.adapters.templates import ENV_NAME
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import UsageError
from gpumod.domain.run import Handle
from gpumod.domain.secrets import SYSTEMDS_OWN
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

pytestmark = pytest.mark.systemd

BUS = "org.freedesktop.systemd1"
NAMES = itertools.count()
TEXTS = st.text(
    st.sampled_from(list("\\\"'`%$;{}[]()<>*?~ \tAnx0=-@#|!+:é\u200b\n\r\x1b"))
    | st.characters(exclude_categories=["Cs"]),
    max_size=24,
).filter(lambda text: "\0" not in text)
CLEAN = TEXTS.filter(lambda text: not has_control_characters(text))
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def busctl(*words: str) -> Any:
    done = subprocess.run(["busctl", "--json=short", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["data"]


@pytest.fixture
def units() -> Iterator[list[Path]]:
    written: list[Path] = []
    yield written
    for path in written:
        path.unlink()


@EXAMPLES
@given(words=st.lists(CLEAN, max_size=4), title=CLEAN, values=st.lists(CLEAN, max_size=3), folder=CLEAN)
def test_what_systemd_reads_is_what_went_in(
    tmp_path: Path, units: list[Path], words: list[str], title: str, values: list[str], folder: str
) -> None:
    service = Service(id="svc", driver="none", name=title)
    handle = Handle(service="svc", supervisor="systemd-system", nonce="", launched=service, started_at=0)
    env = {f"V{n}": value for n, value in enumerate(values)}
    cwd = Path("/srv") / folder.replace("/", "-").replace("..", "")
    found = Resolved("/bin/true", ("true", *words), env, {}, cwd)
    rendering = Rendering(tmp_path, "0" * 12, Settings(), "system", [])
    try:
        unit = rendering.unit(handle, Launch(argv=("true", *words), env=env), found)
    except UsageError:  # a path that systemd would not take as it is
        assert str(cwd) != str(cwd).rstrip(" ") or str(cwd).endswith("\\")
        return
    name = f"escape-{next(NAMES)}.service"
    units.append(Path("/run/systemd/system") / name)
    units[-1].write_text(unit.text)
    (path,) = busctl("call", BUS, "/org/freedesktop/systemd1", f"{BUS}.Manager", "LoadUnit", "s", name)

    def asked(kind: str, property_: str) -> Any:
        return busctl("get-property", BUS, path, f"{BUS}.{kind}", property_)

    assert asked("Unit", "LoadState") == "loaded"
    ((program, argv, *_),) = asked("Service", "ExecStart")
    assert program == "/bin/true"
    assert [word.replace("$$", "$") for word in argv[1:]] == words
    secret = {key for key, value in env.items() if f"{key}=" not in unit.text}
    assert asked("Service", "Environment") == [f"{k}={v}" for k, v in env.items() if k not in secret]
    assert asked("Service", "WorkingDirectory") == str(cwd)
    assert asked("Service", "ExecStartPre") == []
    assert len(asked("Service", "ExecStopPost")) == 1
    shown = asked("Unit", "Description")
    title = f"gpumod: {service.title}".rstrip(" ")
    assert shown in (title, title + "\\")


@EXAMPLES
@given(values=st.dictionaries(st.from_regex(ENV_NAME, fullmatch=True), TEXTS, max_size=5))
def test_what_a_service_is_told_in_the_file_of_variables_is_what_went_in(
    tmp_path: Path, values: dict[str, str]
) -> None:
    values = {key: value for key, value in values.items() if key not in SYSTEMDS_OWN}
    file = tmp_path / "environment"
    file.write_bytes(environment_text("svc", values).encode())
    run = ["systemd-run", "--pipe", "--wait", "--quiet", "--collect", "-p", f"EnvironmentFile={file}"]
    done = subprocess.run([*run, "--", "/usr/bin/env", "-0"], capture_output=True, check=True)
    told = dict(entry.decode().split("=", 1) for entry in done.stdout.split(b"\0") if entry)
    assert {key: told.get(key) for key in values} == values
