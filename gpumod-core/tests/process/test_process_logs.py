"""Logs of services: the last run alone, across rotated files, any bytes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters import environment
from gpumod.adapters.files import lines_backwards
from gpumod.adapters.process import shim
from gpumod.adapters.process.records import Records
from gpumod.domain.errors import UsageError


async def test_only_the_present_run_is_shown(machine: Any) -> None:
    first = await machine.start("print('one'); print('two', end='')")
    await machine.supervisor.exited(first)
    assert machine.supervisor.logs("svc", 10) == ("one", "two")
    second = await machine.start("import sys; print('three', file=sys.stderr)")
    await machine.supervisor.exited(second)
    assert machine.supervisor.logs("svc", 10) == ("three",)
    assert machine.supervisor.logs("svc", 0) == ()
    text = machine.supervisor.log_path("svc").read_text()
    assert text.count("--- gpumod: svc started ") == 2
    assert "\ntwo\n--- gpumod" in text


async def test_bytes_that_are_no_text_are_replaced(machine: Any) -> None:
    handle = await machine.start("import os; os.write(1, b'a\\xffb\\r\\nloading 1%\\rloading 99%\\nend')")
    assert await machine.lines(handle, 3) == ("a�b", "loading 99%", "end")


async def test_a_log_that_grows_is_rotated_while_the_service_writes(machine: Any) -> None:
    code = """
        import os, time
        for line in range(16000):
            print(f'{line:06d}', 'x' * 64)
        print('before', flush=True)
        while os.fstat(1).st_size:
            time.sleep(0.01)
        print('after', flush=True)
        time.sleep(600)
    """
    handle = await machine.start(code)
    await machine.until(lambda: machine.supervisor.logs("svc", 1) == ("after",))
    log = machine.supervisor.log_path("svc")
    assert sorted(path.name for path in log.parent.iterdir()) == ["svc.log", "svc.log.1"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in log.parent.iterdir())
    assert log.read_text() == "after\n"
    shown = machine.supervisor.logs("svc", 20000)
    assert shown[-2:] == ("before", "after")
    assert [int(line[:6]) for line in shown[:-2]] == list(range(16000))
    await machine.supervisor.stop(handle, machine.launch(code))


def test_three_old_logs_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "svc.log"
    orders = shim.Orders(
        {"folder": "", "nonce": "n", "service": "svc", "exe": "x", "argv": [], "env": {}, "cwd": "/", "log": str(log)}
        | {"log_max_bytes": 10, "log_keep": 3, "stop_timeout_s": 1}
    )
    shim.rotate(orders)  # nothing there yet
    for number in range(6):
        log.write_text(f"{number}" * 10)
        shim.rotate(orders)
        assert log.read_text() == ""
    log.write_text("short")
    shim.rotate(orders)
    kept = {path.name: path.read_text()[:1] for path in tmp_path.iterdir()}
    assert kept == {"svc.log": "s", "svc.log.1": "5", "svc.log.2": "4", "svc.log.3": "3"}


async def test_a_large_log_is_rotated_at_the_start(machine: Any) -> None:
    log = machine.supervisor.log_path("svc")
    log.parent.mkdir(parents=True)
    log.write_bytes(b"old\n" * 300_000)
    handle = await machine.start("print('new')")
    await machine.supervisor.exited(handle)
    assert machine.supervisor.logs("svc", 5) == ("new",)
    assert log.stat().st_size < 1000
    assert log.with_name("svc.log.1").stat().st_size == 1_200_000


async def test_a_log_that_is_a_link_is_refused(machine: Any, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log = machine.supervisor.log_path("svc")
    log.parent.mkdir(parents=True)
    log.symlink_to(victim)
    with pytest.raises(Exception, match="could not be started") as caught:
        await machine.start("print('new')")
    assert caught.value.code == "cannot-start"
    assert victim.read_text() == "precious"


TEXT = st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=20), max_size=40)


@settings(deadline=None)
@given(lines=TEXT, cuts=st.lists(st.integers(0, 800), max_size=3), newline=st.booleans())
def test_lines_backwards_is_the_text_reversed(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cuts: list[int], newline: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    data = "\n".join(lines).encode() + (b"\n" if newline and lines else b"")
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    paths = []
    for number, (start, end) in enumerate(itertools.pairwise(places)):
        paths.append(folder / str(number))
        paths[-1].write_bytes(data[start:end])
    expected = data.decode().split("\n")
    if expected[-1] == "":
        expected.pop()
    assert list(lines_backwards(paths[::-1])) == expected[::-1]


def test_long_lines_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"y" * 200_000 + b"\n" + b"z" * 3_000_000 + b"\nlast\n")
    lines = list(lines_backwards([path]))
    assert lines[0] == "last"
    assert lines[-1] == "first"
    assert lines[-2] == "y" * 200_000
    assert sum(line.count("z") for line in lines) == 3_000_000
    assert list(lines_backwards([tmp_path / "none"])) == []


NAMES = st.sampled_from(
    [
        *("PATH", "HOME", "LC_ALL", "HF_HOME", "HF_TOKEN", "OPENAI_API_KEY", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
        *("FOO", "http_proxy", "HTTPS_PROXY", "GPUMOD_NONCE", "GPUMOD_SHIM", "LD_LIBRARY_PATH", "HF_HUB_TOKEN"),
        "LD_PRELOAD",
    ]
)
VALUES = st.one_of(st.text(max_size=10), st.just("http://user:pw@proxy:3128"), st.just("/a:/b"))


@settings(deadline=None)
@given(environ=st.dictionaries(NAMES, VALUES))
def test_what_a_service_inherits(environ: dict[str, str]) -> None:
    kept = environment.inherited(environ, "/opt/bin")
    assert kept["PATH"].split(":")[0] == "/opt/bin"
    for name, value in kept.items():
        assert name == "PATH" or value == environ[name]
        assert name not in ("FOO", "CUDA_VISIBLE_DEVICES", "GPUMOD_NONCE", "GPUMOD_SHIM", "LD_PRELOAD")
        assert "TOKEN" not in name
        assert "KEY" not in name
        assert not (name.lower().endswith("_proxy") and "@" in value)
    for name in ("HOME", "LC_ALL", "HF_HOME", "CUDA_HOME", "LD_LIBRARY_PATH"):
        assert (name in kept) == (name in environ)


def test_the_search_path_has_absolute_folders_only() -> None:
    assert environment.search_path({"PATH": ":.:bin:/usr/bin:/x:/usr/bin"}, "/x") == "/x:/usr/bin"
    assert environment.search_path({}, None) == environment.DEFAULT_PATH


@settings(deadline=None)
@given(service=st.text(max_size=12))
def test_no_id_leads_out_of_the_home(service: str) -> None:
    records = Records(Path("/home/x/.gpumod"))
    try:
        folder, log = records.folder(service), records.log(service)
    except UsageError:
        return
    assert folder.parent == Path("/home/x/.gpumod/services")
    assert log.parent == Path("/home/x/.gpumod/logs")
    assert folder.name == service
