"""Adoption over a world: what is taken for what serves, what is refused, and where it is said to run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.foreign.programs import read_config
from gpumod.api import CommandLine, Flag, Told, gpus_in, read_flags, words_from
from gpumod.bootstrap import preset_tools
from gpumod.domain.adopted import Adopted, Manager
from gpumod.domain.errors import Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.operations.adoption_params import AdoptParams
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ServiceWrite
from gpumod.operations.subjects import NOT_KNOWN
from gpumod.plugins.offers import DriverOffer, SupervisorOffer
from gpumod.ports import ProcessStatus
from gpumod.ports.foreign import Container, ContainerFacts, FolderFound, ProcessFacts, ProgramFound, UnitFacts
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import WorldDriver

DOCKER = Container(engine="docker", id="0123456789ab")
FLAGS = {"--port": Flag("port", "int"), "--model": Flag("model_path")}


class Acme(WorldDriver):
    """A runtime whose command lines are `acme-server --port N`."""

    name = "acme"

    def read_command(self, command: CommandLine) -> Told | None:
        words = words_from(command.argv, "acme-server")
        if words is None:
            return None
        fields, _ = read_flags(words[1:], FLAGS)
        visible = gpus_in(command.env)
        return Told(fields=fields | ({"gpus": visible} if visible else {}))


class Place:
    """A computer on which runs what a test puts there."""

    def __init__(self) -> None:
        self.found: dict[int, ProcessFacts] = {}
        self.parents: dict[int, int] = {}
        self.named: dict[str, UnitFacts] = {}
        self.ports: dict[int, Sequence[int]] = {}
        self.files: tuple[Path, ...] = ()

    def add(self, *argv: str, parent: int = 1, box: Container | None = None, **env: str) -> int:
        pid = 9000 + len(self.found)
        command = CommandLine(argv=argv, env=env)
        self.found[pid] = ProcessFacts(pid=pid, identity=f"b {pid}", command=command, pids=(pid,), container=box)
        self.parents[pid] = parent
        return pid

    def add_unit(self, name: str, *argv: str, **env: str) -> None:
        self.named[name] = UnitFacts(name=name, manager="system", command=CommandLine(argv=argv, env=env))

    def managers(self) -> tuple[Manager, ...]:
        return ("system",)

    def unit(self, name: str, manager: Manager) -> UnitFacts | None:
        return self.named.get(name)

    def units(self, manager: Manager) -> tuple[UnitFacts, ...]:
        return tuple(self.named.values())

    def process(self, pid: int) -> ProcessFacts | None:
        return self.found.get(pid)

    def chain(self, pid: int) -> tuple[ProcessFacts, ...]:
        found = []
        while pid in self.found:
            found.append(self.found[pid])
            pid = self.parents[pid]
        return tuple(found)

    def unit_of(self, pid: int) -> None:
        return None

    def listening(self, pids: Collection[int]) -> Mapping[int, Sequence[int]]:
        return {pid: ports for pid, ports in self.ports.items() if pid in pids}

    def programs(self, names: Sequence[str], settings: object) -> tuple[ProgramFound, ...]:
        return ()

    def model_folders(self, settings: object) -> tuple[FolderFound, ...]:
        return ()

    def llama_swap_files(self, commands: Sequence[CommandLine]) -> tuple[Path, ...]:
        return self.files

    def config(self, path: Path) -> Mapping[str, Any]:
        return read_config(path)

    def size_mb(self, path: Path) -> None:
        return None


class Engine:
    """The containers of a place, by name; `broken` fails as no engine may."""

    name = "adopted-container"

    def __init__(self) -> None:
        self.boxes: dict[str, ContainerFacts] = {}
        self.broken = False

    def add(self, name: str, *argv: str, pids: tuple[int, ...] = (), **facts: Any) -> ContainerFacts:
        number, command = f"0123456789ab{len(self.boxes):052x}", CommandLine(argv=argv)
        main = pids[0] if pids else None
        box = ContainerFacts(id=number, name=name, command=command, pids=pids, main_pid=main, **facts)
        return self.boxes.setdefault(name, box)

    def container(self, name: str) -> ContainerFacts | None:
        if self.broken:
            raise RuntimeError("it never heard of that")
        return next((box for box in self.boxes.values() if box.name == name or box.id.startswith(name)), None)

    def has(self, adopted: Adopted) -> bool:
        return self.container(str(adopted.container)) is not None

    def containers(self) -> tuple[ContainerFacts, ...]:
        return tuple(box for box in self.boxes.values() if box.pids)

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        return {handle.service: ProcessStatus(alive=False) for handle in handles}


class Owner:
    """Somebody with a place, cards and gpumod."""

    def __init__(self, box: Any) -> None:
        self.box, self.place, self.engine = box, Place(), Engine()
        box.offers = (DriverOffer(name="acme", summary="a runtime", factory=Acme),)

    def install_engine(self) -> Engine:
        self.box.offers += (SupervisorOffer(name=Engine.name, summary="", factory=lambda *_: self.engine, adopts=True),)
        return self.engine

    def ask(self, verb: str, *params: Any, **more: Any) -> Any:
        tools = bare_tools(surroundings=lambda: self.place, presets=preset_tools)
        return self.box.world.clock.run(getattr(Gpumod(self.box.machine(), tools), verb)(*params, **more))

    def adopt(self, what: object, **params: Any) -> Service:
        adopted: Service = self.ask("service_adopt", AdoptParams(what=str(what), **params)).service
        return adopted

    def refused(self, what: object, **params: Any) -> GpumodError:
        with pytest.raises((UnknownName, UsageError)) as refusal:
            self.adopt(what, **params)
        assert self.box.store.services() == {}
        return refusal.value

    def holds(self, pid: int, gpu: int, mb: int = 2000) -> None:
        self.box.world.foreign(mb, gpu=gpu).pid = pid


@pytest.fixture
def make_owner(make_box: Callable[..., Any]) -> Callable[..., Owner]:
    return lambda *totals_mb: Owner(make_box(*(totals_mb or (24_000,))))


# --- what serves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "above",
    [("tmux", "new", "-s", "acme-server"), ("make", "-j8", "acme-server"), ("SCREEN", "acme-server", "--port", "1")],
)
def test_what_only_names_the_program_is_not_it(make_owner: Callable[..., Owner], above: tuple[str, ...]) -> None:
    owner = make_owner()
    outer = owner.place.add(*above)
    shell = owner.place.add("-bash", parent=outer)
    server = owner.place.add("acme-server", "--port", "9100", parent=shell)
    worker = owner.place.add("acme: worker", parent=server)
    adopted = owner.adopt(worker).adopted
    assert adopted is not None
    assert adopted.pid == server


def test_the_row_of_those_that_serve_ends_at_the_first_that_does_not(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    another = owner.place.add("acme-server", "--port", "9101")
    manager = owner.place.add("starter", parent=another)
    router = owner.place.add("nice", "acme-server", "--port", "9100", parent=manager)
    child = owner.place.add("acme-server", "--port", "9102", parent=router)
    adopted = owner.adopt(child).adopted
    assert adopted is not None
    assert adopted.pid == router


# --- containers and gpumod's own --------------------------------------------------------------------------------------


def test_a_process_in_a_container_is_refused_and_proposed_with_the_reason(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    keeper = owner.place.add("containerd-shim-runc-v2", "-namespace", "moby")
    server = owner.place.add("acme-server", "--port", "8000", parent=keeper, box=DOCKER)
    worker = owner.place.add("acme: worker", parent=server, box=DOCKER)
    owner.holds(server, 0, 500)
    owner.holds(worker, 0, 2000)
    for pid in (server, worker):
        error = owner.refused(pid).info
        assert error.code == "in-container"
        assert f"process {pid} runs in the docker container 0123456789ab" in error.message
        assert "docker stop 0123456789ab" in (error.hint or "")
    found = owner.ask("_discover", (), take_all=True)
    (proposal,) = found.proposals
    assert (proposal.what, proposal.held_mb, proposal.service) == (f"process {server}", 2500, None)
    assert proposal.problem.code == "in-container"
    assert found.taken == ()
    assert owner.box.store.services() == {}


def test_a_unit_that_runs_a_container_says_so(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    server = owner.place.add("acme-server", "--port", "8000", box=DOCKER)
    owner.place.add_unit("boxed.service", "podman", "run", "acme")
    facts = owner.place.named["boxed.service"].model_copy(update={"active": True, "pids": (server,)})
    owner.place.named["boxed.service"] = facts
    done = owner.ask("service_adopt", AdoptParams(what="boxed.service", port=9100))
    assert (done.service.driver, done.service.port) == ("acme", 9100)
    assert any("docker container 0123456789ab" in note for note in done.notes)


def test_a_unit_and_a_container_of_one_name_are_told_apart(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    owner.place.add_unit("writer.service", "acme-server", "--port", "9100")
    nobody = owner.refused("nobody")
    assert (nobody.exit_code, nobody.code) == (4, "nothing-to-adopt")
    box = owner.install_engine().add("writer", "acme-server", "--port", "8000", published={8000: 9101})
    error = owner.refused("writer").info
    assert error.code == "which-kind"
    assert owner.refused(box.name, container=True, manager="system").info.code == "which-kind"
    assert owner.refused("nobody").info.why.endswith("and no container is called so")
    adopt = "gpumod service adopt writer"
    assert error.hint == f"{adopt}.service --manager system, or {adopt} --container"
    assert owner.adopt("writer.service").port == 9100
    service = owner.adopt("writer", container=True)
    assert (service.id, service.port, str(service.adopted)) == ("writer-2", 9101, "container writer (0123456789ab)")
    with pytest.raises(UsageError, match="is service 'writer-2' already"):
        owner.adopt(box.id[:20])


def test_what_is_told_inside_is_stored_as_it_is_outside(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner(24_000, 12_000)
    engine, command = owner.install_engine(), ("acme-server", "--port", "8000", "--model", "/models/a/b.gguf")
    shared = {
        "published": {8000: 9101, 22: 9102},
        "gpus": ("1",),
        "mounts": {"/models": "/srv/ai", "/": "/no"},
        "engine": "/e",
    }
    engine.add("near", *command, **shared)
    service = owner.adopt("near", vram_mb=1)
    assert (service.port, service.model_path, service.gpus) == (9101, "/srv/ai/a/b.gguf", (1,))
    assert service.adopted.engine == "/e"
    engine.add("open", *command, shares_network=True, project="media")
    told = owner.ask("service_adopt", AdoptParams(what="open", vram_mb=1))
    assert (told.service.port, told.service.model_path, told.service.gpus) == (8000, "/models/a/b.gguf", "any")
    assert told.notes[0] == "its model /models/a/b.gguf is told as it is in the container"
    assert told.notes[1].startswith("it belongs to the compose project media")
    engine.add("other", *command, published={9: 9109})
    with pytest.raises(UsageError, match="which port of this machine") as refusal:
        owner.adopt("other")
    assert refusal.value.info.why.endswith("is: 9109 (to 9 in there)")
    assert owner.adopt("other", port=9109, vram_mb=1).port == 9109


def test_a_container_that_holds_memory_is_proposed_once(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    engine, command = owner.install_engine(), ("acme-server", "--port", "8000")
    for name, more in (("seen", {}), ("units", {}), ("passing", {"passing": True}), ("idle", {})):
        pid = owner.place.add(*command, box=DOCKER)
        engine.add(name, *command, pids=(pid,), published={8000: 9100 + pid % 100}, **more)
        if name != "idle":
            owner.holds(pid, 0, 500)
    seen, units = engine.boxes["seen"].pids, engine.boxes["units"].pids
    engine.add("down", *command)
    owner.place.add_unit("quadlet.service", "podman", "run", "acme")
    owner.place.named["quadlet.service"] = owner.place.named["quadlet.service"].model_copy(update={"pids": units})
    error = owner.refused(seen[0]).info
    assert (error.code, error.hint) == ("in-container", "gpumod service adopt seen --container")
    found = owner.ask("_discover", (), take_all=True)
    assert [(p.id, p.kind, p.held_mb, p.problem and p.problem.code) for p in found.proposals] == [
        ("quadlet", "unit", 500, None),
        ("seen", "container", 500, None),
        ("passing", "container", 500, "removes-itself"),
        ("idle", "container", 0, None),
    ]
    assert {*found.taken} == {"quadlet", "seen", "idle"}
    assert [p.id for p in owner.ask("_discover", (), take_all=True).proposals] == ["passing"]


def test_what_finds_containers_may_break_or_be_missing(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    owner.place.add_unit("writer.service", "acme-server", "--port", "9100")
    with pytest.raises(UnknownName):
        owner.adopt("writer", container=True)
    owner.install_engine().broken = True
    with pytest.raises(Failed, match="what finds containers breaks"):
        owner.adopt("writer", container=True)
    assert owner.adopt("writer", vram_mb=1).adopted == Adopted(unit="writer.service", manager="system")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gpumod.service", "own-unit"),
        ("gpumod.0123456789ab.service", "own-unit"),
        ("gpumod-web.service", "own-unit"),
        ("user@1000.service", "users-manager"),
    ],
)
def test_gpumods_own_units_and_users_managers_are_not_adopted(
    make_owner: Callable[..., Owner], name: str, code: str
) -> None:
    owner = make_owner()
    owner.place.add_unit(name, "acme-server", "--port", "9100")
    assert owner.refused(name).info.code == code


def test_what_is_counted_as_nothing_is_said_before_and_after(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    held = owner.place.add("acme-server", "--port", "9101")
    owner.holds(held, 0)
    owner.place.add_unit("down.service", "acme-server", "--port", "9100")
    found = owner.ask("_discover", (), take_all=True)
    assert {p.id: p.notes for p in found.proposals} == {"acme-server": (), "down": (NOT_KNOWN,)}
    assert {*found.taken} == {"acme-server", "down"}
    assert found.counted_as_nothing == ("down",)


def test_of_a_simulated_machine_only_what_is_on_its_cards_is_proposed(
    make_owner: Callable[..., Owner], tmp_path: Path
) -> None:
    owner = make_owner()
    owner.place.files = (tmp_path / "config.yaml",)
    on_it, beside = (owner.place.add("acme-server", "--port", port) for port in ("9101", "9102"))
    for name, pids in (("on-it", (on_it,)), ("beside", (beside,)), ("down", ())):
        owner.place.add_unit(f"{name}.service", "acme-server", "--port", "9100")
        facts = owner.place.named[f"{name}.service"]
        owner.place.named[f"{name}.service"] = facts.model_copy(update={"active": bool(pids), "pids": pids})
    owner.holds(on_it, 0)
    assert {p.id for p in owner.ask("_discover", (), take_all=False).proposals} == {
        "on-it", "beside", "down", "llama-swap-file"
    }  # fmt: skip
    owner.box.settings["sim_machine"] = str(tmp_path)
    assert owner.ask("_discover", (), take_all=True).taken == ("on-it",)


def test_an_edit_of_what_is_anothers_says_that_it_moves_nothing(make_owner: Callable[..., Owner]) -> None:
    owner = make_owner()
    service = owner.adopt(owner.place.add("acme-server", "--port", "9101"), vram_mb=700)
    done = owner.ask("service_edit", ServiceWrite(id=service.id, fields={"port": 9999}))
    assert (done.service.port, done.service.vram_mb) == (9999, 700)
    (note,) = done.notes
    assert note.startswith(f"the port of the {service.adopted} stays as whoever set it up made it")
    assert note.endswith(f"gpumod service status {service.id} tells whether it answers on port 9999")
    for fields in ({"port": 9999}, {"vram_mb": 800}):
        assert owner.ask("service_edit", ServiceWrite(id=service.id, fields=fields)).notes == ()


# --- where it runs ------------------------------------------------------------------------------------------------

BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("cards", "env", "held_on", "gpus"),
    [
        ((24_000, 12_000), {"CUDA_VISIBLE_DEVICES": "0"}, 1, (1,)),  # seen beats said
        ((12_000, 12_000), {"CUDA_VISIBLE_DEVICES": "0"}, 1, (1,)),
        ((24_000, 12_000), {}, 1, (1,)),
        ((24_000, 12_000), {"CUDA_VISIBLE_DEVICES": "1"}, None, "any"),  # CUDA's count may be another
        ((24_000, 12_000), {"CUDA_VISIBLE_DEVICES": "1", **BUS}, None, (1,)),
        ((12_000, 12_000), {"CUDA_VISIBLE_DEVICES": "1"}, None, (1,)),  # equal cards have one order
        ((24_000, 12_000), {"CUDA_VISIBLE_DEVICES": "1,0"}, None, (1, 0)),  # both, in whatever order
        ((24_000, 12_000), {"CUDA_VISIBLE_DEVICES": "7", **BUS}, None, "any"),
        ((24_000,), {"CUDA_VISIBLE_DEVICES": "0"}, None, (0,)),
    ],
)
def test_the_gpus_are_those_that_it_is_seen_on(
    make_owner: Callable[..., Owner], cards: tuple[int, ...], env: dict[str, str], held_on: int | None, gpus: object
) -> None:
    owner = make_owner(*cards)
    pid = owner.place.add("acme-server", "--port", "9100", **env)
    if held_on is not None:
        owner.holds(pid, held_on)
    assert owner.adopt(pid).gpus == gpus
