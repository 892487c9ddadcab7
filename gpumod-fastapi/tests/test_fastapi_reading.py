"""Any command line: its port, and the command that gives it again."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from gpumod.api import Allocation, CommandLine, Service, Settings, Told
from gpumod_fastapi.driver import FastApiDriver

DRIVER = FastApiDriver()
TEXT = st.text(st.characters(blacklist_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=12)
PLACES = [("--port", "{port}"), ("--port={port}",), ("-b", "0.0.0.0:{port}"), ("--bind=[::]:{port}",)]


def read(*argv: str, cwd: str = "", **env: str) -> Told:
    told = DRIVER.read_command(CommandLine(argv=argv, cwd=cwd, env=env))
    assert told is not None
    return told


@given(st.lists(TEXT, min_size=1, max_size=6), st.sampled_from(PLACES), st.integers(1, 65535))
def test_what_launch_writes_is_read_back(words: list[str], place: tuple[str, ...], port: int) -> None:
    assume(not any(re.search(r"\{(port|host|model_id|model_path)\}", word) for word in words))
    assume(not any(word.partition("=")[0] in ("--port", "-p", "--bind", "-b") for word in words))
    unit_vars = {"command": [*words, *place], "cwd": "/srv"}
    service = Service(id="x", driver="fastapi", port=port, unit_vars=unit_vars)
    launch = DRIVER.launch(service, Allocation(), Settings())
    told = read(*launch.argv, cwd=str(launch.cwd))
    assert Service(id="x", driver="fastapi", **told.fields) == service


def test_ports_of_all_kinds() -> None:
    assert read("uvicorn", "app:app", PORT="9000").fields["port"] == 9000
    assert "port" not in read("python", "app.py").fields
    assert read("app", "--port", "many").fields == {"unit_vars": {"command": ["app", "--port", "many"]}}
    told = read("app", "--port", "8", "--listen", "x:9", CUDA_VISIBLE_DEVICES="1")
    assert told.fields["unit_vars"]["command"] == ["app", "--port", "{port}", "--listen", "x:9"]
    assert (told.fields["gpus"], told.sure) == ((1,), False)


def test_the_address_that_it_listens_on() -> None:
    assert read("uvicorn", "app:app", "--host", "0.0.0.0", "--port", "80").binds == "0.0.0.0"
    assert read("gunicorn", "--bind=[::]:80", "app").binds == "::"
    assert read("app", "-b", "localhost:80").binds == "localhost"
    assert read("app", "--host", "example.org").binds == ""
    assert read("app", "--port", "80").binds == ""
