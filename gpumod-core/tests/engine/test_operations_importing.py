"""Imports over a world: which container an ollama is in that answers on a port, and what cannot be counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.foreign.programs import read_config
from gpumod.api import CommandLine, ContainerFacts, Handle, ProcessStatus, Told, UnknownName, words_from
from gpumod.bootstrap import preset_tools
from gpumod.domain.adopted import Adopted, Manager
from gpumod.domain.errors import UsageError
from gpumod.domain.machine import PortUser
from gpumod.operations.adoption_params import ImportFile, ImportOllama
from gpumod.operations.adoption_results import ImportRow
from gpumod.operations.gpumod import Gpumod
from gpumod.plugins.offers import DriverOffer, SupervisorOffer
from gpumod.ports import HttpReply
from gpumod.ports.foreign import ProcessFacts, UnitFacts
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import WorldDriver, world_service
from gpumod.testing.world_parts import WorldLocal

SERVE = ("/bin/ollama", "serve")


class Ollama(WorldDriver):
    """The driver of `ollama serve`."""

    name = "ollama"

    def read_command(self, command: CommandLine) -> Told | None:
        port = int(command.env.get("OLLAMA_HOST", ":11434").rpartition(":")[2])
        return Told(fields={"port": port, "unit_vars": {}}) if words_from(command.argv, "ollama") else None


class Tags:
    """Answers on every port as an ollama without models."""

    async def request(self, *asked: Any, **more: Any) -> HttpReply:
        return HttpReply(status=200, text='{"models": []}', json_body={"models": []})


class Kernel(WorldLocal):
    """Tells that `pid` listens on every port; None: somebody does, and who is not told."""

    pid: int | None = None

    def port_users(self, ports: Collection[int]) -> Mapping[int, PortUser]:
        return {port: PortUser(pid=self.pid) for port in ports}


class Engine:
    """Its containers, each with one process; what listens beside them is process 1."""

    name = "adopted-container"

    def __init__(self) -> None:
        self.boxes: list[ContainerFacts] = []

    def add(self, name: str, *argv: str, env: Mapping[str, str] = {}, **facts: Any) -> int:
        pid, command = 9000 + len(self.boxes), CommandLine(argv=argv, env=env)
        box = ContainerFacts(id=f"{pid:064x}", name=name, command=command, pids=(pid,), main_pid=pid, **facts)
        self.boxes.append(box)
        return pid

    def container(self, name: str) -> ContainerFacts | None:
        return next((box for box in self.boxes if box.name == name), None)

    def containers(self) -> tuple[ContainerFacts, ...]:
        return tuple(self.boxes)

    def has(self, adopted: Adopted) -> bool:
        return any(box.id == adopted.container for box in self.boxes)

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        return {}


class Around:
    """What is looked at of this machine: as little as another user may see."""

    def process(self, pid: int) -> None:
        """It is another user's."""

    def unit_of(self, pid: int) -> None:
        """It is in none."""

    def chain(self, pid: int) -> tuple[ProcessFacts, ...]:
        command = CommandLine(argv=("socat",))
        return (ProcessFacts(pid=pid, identity="b", command=command, pids=(pid,)),)

    def config(self, path: Path) -> Mapping[str, Any]:
        return read_config(path)

    def listening(self, pids: Collection[int]) -> Mapping[int, Sequence[int]]:
        return {}


class System(Around):
    """A machine whose ollama.service, another user's, serves on the usual port."""

    def managers(self) -> tuple[Manager, ...]:
        return ("system",)

    def unit(self, name: str, manager: Manager) -> UnitFacts:
        return UnitFacts(name=name, manager=manager, command=CommandLine(argv=SERVE), active=True, pids=(800,))


class Filed(System):
    """The same, whose unit reads variables from a file as well."""

    def unit(self, name: str, manager: Manager) -> UnitFacts:
        return super().unit(name, manager).model_copy(update={"unseen_env": True})


class Shop:
    """A computer with `engine`; `found` is what an import of the ollama on a port would adopt."""

    def __init__(self, box: Any, around: type[Around] = Around) -> None:
        self.box, self.engine, self.kernel, self.around = box, Engine(), Kernel(box.world), around
        box.offers = (
            DriverOffer(name="ollama", summary="", factory=Ollama),
            SupervisorOffer(name=Engine.name, summary="", factory=lambda *_: self.engine, adopts=True),
        )

    def rows(self, verb: str, asked: ImportOllama | ImportFile) -> tuple[ImportRow, ...]:
        machine = replace(self.box.machine(), http=Tags(), local=self.kernel)
        gpumod = Gpumod(machine, bare_tools(surroundings=self.around, presets=preset_tools))
        rows: tuple[ImportRow, ...] = self.box.world.clock.run(getattr(gpumod, verb)(asked)).rows
        return rows

    def row(self, verb: str, asked: ImportOllama | ImportFile) -> ImportRow:
        (row,) = self.rows(verb, asked)
        return row

    def found(self, port: int) -> str:
        row = self.row("import_ollama", ImportOllama(port=port, dry_run=True))
        assert row.service.port == port
        return str(row.service.adopted.name)


def test_in_this_machines_network_it_is_the_one_that_listens_or_whose_command_says_so(
    make_box: Callable[..., Any],
) -> None:
    shop = Shop(make_box(8000))
    engine, kernel = shop.engine, shop.kernel
    engine.add("alone", *SERVE)
    engine.add("web", "nginx", shares_network=True)
    env = {"OLLAMA_HOST": ":11500"}
    more = engine.add("more", *SERVE, env=env, published={11434: 11434}, shares_network=True)
    engine.add("chat", *SERVE, shares_network=True)
    assert (shop.found(11434), shop.found(11500)) == ("chat", "more"), "what it publishes there counts for nothing"
    kernel.pid = more
    assert shop.found(11500) == "more"
    engine.boxes.reverse()
    assert shop.found(11500) == "more", "whichever comes first"
    kernel.pid = 4711
    with pytest.raises(UnknownName, match="4711"):  # it is seen, and is in none of them
        shop.found(11434)


def test_in_a_network_of_its_own_it_is_the_one_that_publishes_the_port(make_box: Callable[..., Any]) -> None:
    shop = Shop(make_box(8000))
    shop.engine.add("alone", *SERVE)
    shop.engine.add("more", *SERVE, published={11434: 11500})
    shop.engine.add("chat", *SERVE, published={11434: 11434})
    assert (shop.found(11434), shop.found(11500)) == ("chat", "more")
    shop.kernel.pid = 4711  # its engine's, which passes connections on
    assert shop.found(11500) == "more"


def test_the_usual_unit_is_not_who_answers_where_it_serves_elsewhere(make_box: Callable[..., Any]) -> None:
    shop = Shop(make_box(8000), System)
    assert shop.row("import_ollama", ImportOllama(port=11434, dry_run=True)).service.adopted.unit == "ollama.service"
    with pytest.raises(UsageError, match="answers on port 11500") as refused:
        shop.found(11500)
    assert refused.value.info.why.startswith("it serves on port 11434")
    shop.around = Filed  # which may say a port
    row = shop.row("import_ollama", ImportOllama(port=11500, dry_run=True))
    assert (row.service.adopted.unit, row.service.port) == ("ollama.service", 11500)
    assert any("reads variables from a file" in note for note in row.notes)


def test_what_is_secret_is_not_told(make_box: Callable[..., Any]) -> None:
    shop = Shop(make_box(8000))
    shop.box.define(world_service("ollama", 100, 9009, unit_vars={"env": {"HF_TOKEN": "hf_of_ann"}}))
    shop.engine.add("chat", *SERVE, shares_network=True)
    row = shop.row("import_ollama", ImportOllama(port=11434))
    assert (row.action, "hf_of_ann" in row.model_dump_json()) == ("kept", False)


def test_a_port_that_cannot_be_counted_is_said(make_box: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"startPort": 70_000, "models": {"m": {"cmd": "ollama serve --port ${PORT}"}}}))
    row = Shop(make_box(8000)).row("import_llama_swap", ImportFile(file=str(file)))
    assert row.action == "skipped"
    assert "no port is left for it: counted from 70000 on" in row.why


def test_what_is_not_known_of_a_model_can_be_said_by_an_edit(make_box: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"models": {"m": {"cmd": "ollama serve"}}}))
    row = Shop(make_box(8000)).row("import_llama_swap", ImportFile(file=str(file)))
    assert any("`gpumod service edit m --vram-mb MB`" in note for note in row.notes)


def test_variables_that_say_where_it_serves_are_its_port(make_box: Callable[..., Any], tmp_path: Path) -> None:
    shop, file = Shop(make_box(8000)), tmp_path / "config.yaml"
    cmd = "env OLLAMA_HOST=127.0.0.1:${PORT} CUDA_VISIBLE_DEVICES=GPU-5b4e ollama serve"
    file.write_text(json.dumps({"models": {"a": {"cmd": cmd}}}))
    row = shop.row("import_llama_swap", ImportFile(file=str(file)))
    assert (row.action, row.why, row.service.port) == ("added", "", 5800)
    assert row.service.unit_vars == {}
    assert "variables left out: CUDA_VISIBLE_DEVICES, OLLAMA_HOST" in row.notes


@pytest.mark.parametrize(
    ("command", "left_out"),
    [
        ("nice -n 5 env HF_HOME=/x ollama serve --port ${PORT}", ["HF_HOME"]),
        (
            "bash -c 'CUDA_VISIBLE_DEVICES=1 OMP_NUM_THREADS=4 ollama serve'",
            ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"],
        ),
        ("env -u LANG A=1 ollama serve", ["A"]),
        ("ollama serve -ot EXPS=CPU --kind B=2", []),
        ("env CUDA_VISIBLE_DEVICES=1 ollama serve", []),
    ],
)
def test_variables_that_are_not_carried_are_named(
    make_box: Callable[..., Any], tmp_path: Path, command: str, left_out: list[str]
) -> None:
    shop, file = Shop(make_box(8000)), tmp_path / "config.yaml"
    file.write_text(json.dumps({"models": {"a": {"cmd": command}}}))
    row = shop.row("import_llama_swap", ImportFile(file=str(file)))
    assert row.action == "added"
    said = [note for note in row.notes if note.startswith("left out before the command")]
    assert said == ([f"left out before the command: {', '.join(left_out)}"] if left_out else [])


def test_what_is_not_added_brings_no_notes(make_box: Callable[..., Any], tmp_path: Path) -> None:
    shop, file = Shop(make_box(8000)), tmp_path / "config.yaml"

    def told(*names: str, title: str = "") -> list[tuple[str, bool]]:
        models = {name: {"cmd": "ollama serve", "name": title, "aliases": ["chat"]} for name in names}
        file.write_text(json.dumps({"models": models}))
        rows = shop.rows("import_llama_swap", ImportFile(file=str(file)))
        return [(row.action, any("aliases" in note for note in row.notes)) for row in rows]

    assert told("a", "b") == [("added", True), ("skipped", False)], "the port is taken"
    assert told("a") == [("unchanged", True)]
    assert told("a", title="Another") == [("kept", False)], "it stays as it was"
