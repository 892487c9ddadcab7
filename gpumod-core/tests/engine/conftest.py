"""One gpumod after another over a world in memory, with the real store."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpumod.adapters.checkup import ThisComputer
from gpumod.adapters.store import SqlStore, open_store
from gpumod.domain.adopted import Adopted
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Mode, Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.progress import Progress
from gpumod.domain.run import Event, Sample
from gpumod.domain.service import Service
from gpumod.engine.change import change
from gpumod.engine.footprints import key_of
from gpumod.engine.machine import Machine
from gpumod.engine.observe import observe
from gpumod.engine.planning import Options, Wanted
from gpumod.engine.recover import recover
from gpumod.engine.runs import Outcome
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import NoParams
from gpumod.operations.results import Check, DoctorResult
from gpumod.operations.targets import target_of_mode
from gpumod.operations.use_results import TurnParams, TurnResult
from gpumod.operations.watch_results import WatchParams, WatchResult
from gpumod.plugins.offers import Offer
from gpumod.ports import Holder
from gpumod.ports.foreign import ProcessFacts, ProgramFound, UnitFacts
from gpumod.testing.computer import Computer
from gpumod.testing.tools import WatchFile, bare_tools
from gpumod.testing.world import World, most_mb
from gpumod.testing.world_drivers import build_machine, quiet, world_mode, world_service

DATABASE = "gpumod.db"
WRITES = ("put_", "add_", "delete_", "update_", "finish_")


class ToldStore:
    """The real store, which tells of every write before it is done."""

    def __init__(self, store: SqlStore, on_act: Callable[[str], None]) -> None:
        self._store = store
        self._on_act = on_act

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not name.startswith(WRITES):
            return method

        def told(*args: Any, **kwargs: Any) -> Any:
            self._on_act(f"write {name} before")
            return method(*args, **kwargs)

        return told


class Box:
    """A world, a home, and the store in it. `acts` are the labels of everything that was done, in order."""

    def __init__(self, folder: Path, world: World, home: Path | None = None) -> None:
        self.folder = folder
        self.home = home or folder
        self.world = world
        self.acts: list[str] = []
        self.told: list[Progress] = []
        self.hooks: dict[str, Callable[[], object]] = {}
        self.every: Callable[[str], object] = quiet
        self.store = open_store(folder / DATABASE)
        self.settings: dict[str, Any] = {}
        self.offers: tuple[Offer, ...] = ()

    def define(self, *things: Service | Mode) -> None:
        for thing in things:
            event = Event(at=self.world.clock.now(), kind="defined", subject=thing.id)
            if isinstance(thing, Service):
                self.store.put_service(thing, event=event)
            else:
                self.store.put_mode(thing, event=event)

    def when(self, label: str, do: Callable[[], object]) -> None:
        """Let something happen at the first act with this label."""
        self.hooks[label] = do

    def _on_act(self, label: str) -> None:
        self.acts.append(label)
        self.hooks.pop(label, lambda: None)()
        self.every(label)

    def machine(self) -> Machine:
        store: Any = ToldStore(self.store, self._on_act)
        return build_machine(self.world, self.home, store, self._on_act, self.settings, self.offers)

    # --- what a user would do -----------------------------------------------------------------------------------

    def switch(self, mode: str, **options: Any) -> Outcome:
        target = target_of_mode(self.store.modes()[mode])
        return self.change(f"switch {mode}", target, cascade=True, **options)

    def start(self, service: str, *, restart: bool = False, want: Want = Want.AWAKE, **options: Any) -> Outcome:
        again = (service,) if restart else ()
        member = TargetMember(service=service, want=want)
        return self.change(f"start {service}", Target(members=(member,), stop_others=False, restart=again), **options)

    def stop(self, service: str, **options: Any) -> Outcome:
        return self.change(f"stop {service}", Target(stop=(service,), stop_others=False), **options)

    def change(self, command: str, target: Target, **options: Any) -> Outcome:
        machine = self.machine()

        def build(_: HostSnapshot) -> Wanted:
            return Wanted(target, machine.store.services())

        return self.world.clock.run(change(machine, command, build, Options(**options), self.told.append))

    def recover(self, way: Any) -> Outcome | None:
        return self.world.clock.run(recover(self.machine(), way, Options(), self.told.append))

    def ask(self, operation: str, params: Any, **tools: Any) -> Any:
        """One operation, as a face calls it."""
        return self.world.clock.run(getattr(Gpumod(self.machine(), bare_tools(**tools)), operation)(params))

    def look(self, before: WatchResult | None = None) -> WatchResult:
        """One look of `watch`, after the one `before`."""
        result: WatchResult = self.ask("watch", WatchParams(held=before.held if before else {}))
        return result

    def gpumod(self) -> Gpumod:
        """One gpumod, for what is asked of several at the same time."""
        return Gpumod(self.machine(), bare_tools())

    def begin(self, service: str, pid: int = 7) -> str:
        """A turn with a service that has begun, as its id."""
        turn: str = self.ask("service_turn", TurnParams(service=service, pid=pid)).turn.id
        return turn

    def end(self, turn: str) -> TurnResult:
        ended: TurnResult = self.ask("service_turn", TurnParams(end=turn))
        return ended

    def lose(self, service: str, pid: int = 7) -> None:
        """Have a turn with a service, and be killed."""
        self.begin(service, pid)
        self.world.gone.add(pid)

    def busy(self, command: str = "apply --now") -> None:
        """Somebody else changes the machine, until `world.holder` is None again."""
        self.world.holder = Holder(pid=9, user="ann", command=command, home="/h", since=0.0)

    def pass_time(self, seconds: float) -> None:
        self.world.clock.run(self.world.clock.sleep(seconds))

    def crash(self, service: str) -> None:
        self.world.crash(service, 9)
        self.settled()

    def boot(self, number: int = 2) -> None:
        """The machine goes down and comes up again: all processes are gone."""
        while self.world.alive():
            self.world.crash(next(iter(self.world.alive())), -9)
        self.settled()
        self.world.boot = number

    def observe(self) -> HostSnapshot:
        return self.world.clock.run(observe(self.machine()))

    # --- what a test asks ---------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """What gpumod itself sees: every service that has a handle, and its state."""
        return {service: str(reading.state) for service, reading in sorted(self.observe().services.items())}

    def settled(self) -> None:
        """Let the device forget what has just died."""
        self.world.clock.run(self.world.clock.sleep(1.0))

    def check_sound(self, leak_mb: int = 0) -> None:
        """No orphan, no memory that nobody holds, handles that are just the living services, no lock."""
        self.settled()
        members = {name for proc in self.world.alive().values() for name in proc.members}
        assert set(self.store.handles()) == {*self.world.alive(), *members}
        assert self.world.unattributed_mb() == leak_mb
        assert self.world.holder is None

    def check_within(self, outcome: Outcome) -> None:
        """At no instant did the services hold more than the plan's peak."""
        for gpu in outcome.plan.gpus:
            assert most_mb(self.world.history)[gpu.index] <= gpu.peak_mb

    def copy(self, name: str) -> Box:
        """What a kill of gpumod in this instant would leave: the world goes on, the database is as it was written."""
        folder = self.folder / name
        folder.mkdir()
        files = (self.folder / DATABASE, folder / DATABASE)
        with closing(sqlite3.connect(files[0])) as source, closing(sqlite3.connect(files[1])) as target:
            source.backup(target)
        return Box(folder, self.world.killed(), home=self.folder)

    def close(self) -> None:
        self.store.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database made once: the migrations are not what is tested here."""
    path = tmp_path_factory.mktemp("empty") / DATABASE
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def database_with(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Callable[..., Path]:
    """A database that holds these definitions, made once for all tests that begin with the same."""
    made: dict[str, Path] = {}

    def database(define: Sequence[Service | Mode]) -> Path:
        key = repr(define)
        if key not in made:
            folder = tmp_path_factory.mktemp("defined")
            shutil.copy(empty_database, folder)
            box = Box(folder, World(0))
            box.define(*define)
            box.close()
            made[key] = folder / DATABASE
        return made[key]

    return database


@pytest.fixture
def make_box(tmp_path: Path, database_with: Callable[..., Path]) -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def make(*totals_mb: int, define: Sequence[Service | Mode] = ()) -> Box:
        folder = tmp_path / f"home{len(boxes)}"
        folder.mkdir()
        shutil.copy(database_with(define), folder)
        boxes.append(Box(folder, World(*totals_mb)))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


@pytest.fixture
def box_in(empty_database: Path) -> Callable[..., Box]:
    """For tests that make many boxes, and close them."""

    def make(folder: Path, *totals_mb: int) -> Box:
        shutil.copy(empty_database, folder)
        return Box(folder, World(*totals_mb))

    return make


# --- the doctor over a world -----------------------------------------------------------------------------------------

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 5000, 9002, naps=True)
MODES = (world_mode("web", "web"), world_mode("both", "web", "code"), world_mode("off"))


class Around:
    """Nothing but what a test puts there."""

    def __init__(self) -> None:
        self.units: dict[str, UnitFacts] = {}

    def unit(self, name: str, manager: str) -> UnitFacts | None:
        return self.units.get(name)

    def process(self, pid: int) -> ProcessFacts | None:
        return None

    def programs(self, names: tuple[str, ...], settings: object) -> tuple[ProgramFound, ...]:
        return ()


class Patient:
    """A world, a computer of small files, and the doctor."""

    def __init__(self, box: Any, files: Computer) -> None:
        self.box, self.files = box, files
        self.around = Around()
        self.uid = os.geteuid()
        box.home.chmod(0o700)

    def doctor(self) -> DoctorResult:
        tools = bare_tools(
            checkup=lambda: ThisComputer(self.files.root, self.files.environ, self.uid, answer_s=2.0),
            surroundings=lambda: self.around,
            watch_unit=lambda scope: (scope, WatchFile(self.files.root, scope)),
        )
        found: DoctorResult = self.box.world.clock.run(Gpumod(self.box.machine(), tools).doctor(NoParams()))
        assert found.ok == all(check.level in ("ok", "unknown") for check in found.checks)
        assert all(check.hint for check in found.checks if check.level in ("warning", "problem")), found
        return found

    def wrong(self) -> dict[str, str]:
        """What is not well, by name."""
        return {c.name: f"{c.level}: {c.message} -> {c.hint}" for c in self.doctor().checks if c.level != "ok"}

    def said(self, name: str) -> Check:
        return next(check for check in self.doctor().checks if check.name == name)

    def adopt(self, manager: str = "system", **fields: Any) -> None:
        told = {"unit": "theirs.service", "manager": manager}
        self.box.define(world_service("theirs", 2000, 9009, adopted=Adopted.model_validate(told), **fields))

    def measured(self, service: str, **values: float) -> None:
        definition = self.box.store.services()[service]
        key = key_of(definition, self.box.observe().gpus)
        samples = [
            Sample.model_validate({"service": service, "key": key, "at": 1.0, "kind": kind, "value": value})
            for kind, value in values.items()
        ]
        self.box.store.add_samples(samples)


@pytest.fixture
def patient(make_box: Callable[..., Any], tmp_path: Path) -> Patient:
    return Patient(make_box(10_000, define=[WEB, CODE, *MODES]), Computer(tmp_path / "computer"))
