"""What may be adopted, and the service that it would become: read from its command lines by the drivers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gpumod.domain import secrets
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import GpumodError, UnknownName, UsageError
from gpumod.domain.machine import GpuReading, HostSnapshot
from gpumod.engine.machine import Machine
from gpumod.operations import containers
from gpumod.operations.adoption_params import AdoptParams
from gpumod.ports.commands import CommandLine, ReadsCommands, Told
from gpumod.ports.foreign import Container, ContainerFacts, ProcessFacts, Surroundings, UnitFacts

NOT_KNOWN = "what it takes is not known until it has run: give --vram-mb, else it is counted as nothing until then"


def not_known(service: str) -> str:
    """The same of one that was taken already."""
    return NOT_KNOWN.replace("give --vram-mb", f"say it by `gpumod service edit {service} --vram-mb MB`")


ENGINES = ("docker", "podman", "nerdctl")
"""Those whose `ENGINE stop ID` ends a container."""


@dataclass(frozen=True)
class Subject:
    """Something that somebody else set up. `commands` are its command lines, the most telling first; `pids` all its
    processes, none where it is down; `stem` is what an id is made of. `container`: that in which it runs; `box`: the
    one that it is. `unseen_env`: its variables may be others than those of the commands."""

    adopted: Adopted
    stem: str
    commands: tuple[CommandLine, ...]
    pids: tuple[int, ...] = ()
    container: Container | None = None
    box: ContainerFacts | None = None
    unseen_env: bool = False

    @property
    def what(self) -> str:
        return self.adopted.unit or self.adopted.name or str(self.adopted.pid)

    @property
    def command(self) -> str:
        """What adopts it, and nothing else of its name."""
        manager = f" --manager {self.adopted.manager}" if self.adopted.manager else ""
        return f"gpumod service adopt {shlex.quote(self.what)}{manager}{' --container' if self.box else ''}"


def of_unit(around: Surroundings, unit: UnitFacts) -> Subject:
    """A unit: what runs in it tells more than its file, of which systemd has lost the quotes."""
    order = [*([unit.main_pid] if unit.main_pid else []), *(pid for pid in unit.pids if pid != unit.main_pid)]
    found = [facts for pid in order if (facts := around.process(pid)) is not None]
    lines = [facts.command.model_copy(update={"env": {**unit.command.env, **facts.command.env}}) for facts in found]
    container = next((facts.container for facts in found if facts.container), None)
    adopted = Adopted(unit=unit.name, manager=unit.manager)
    stem = unit.name.removesuffix(".service").replace("@", "-")
    commands = (*lines, *([unit.command] if unit.command.argv else []))
    unseen_env = unit.unseen_env and not any(facts.command.env for facts in found)
    return Subject(adopted, stem, commands, unit.pids, container, unseen_env=unseen_env)


def of_container(around: Surroundings, box: ContainerFacts) -> Subject:
    """A container: what runs in it tells more than how it was started, which a script may have changed."""
    order = [*([box.main_pid] if box.main_pid else []), *(pid for pid in box.pids if pid != box.main_pid)]
    found = [facts for pid in order if (facts := around.process(pid)) is not None]
    lines = [facts.command.model_copy(update={"env": {**box.command.env, **facts.command.env}}) for facts in found]
    adopted = Adopted(container=box.id, name=box.name, engine=box.engine)
    return Subject(adopted, box.name, (*lines, box.command), box.pids, box=box)


def of_process(facts: ProcessFacts) -> Subject:
    words = [PurePosixPath(word).name for word in facts.command.argv if not word.startswith("-")]
    stem = next(
        (w for w in words if not re.match(r"(python|sh$|bash|env$|node|uv)", w)), words[0] if words else "process"
    )
    adopted = Adopted(pid=facts.pid, identity=facts.identity)
    return Subject(adopted, PurePosixPath(stem).stem, (facts.command,), facts.pids, facts.container)


def read(machine: Machine, commands: Sequence[CommandLine], driver: str | None = None) -> tuple[str, Told] | None:
    """The driver that knows one of `commands`, and what it reads there; a sure one before one that takes any."""
    unsure: tuple[str, Told] | None = None
    for command in commands:
        for name, told in _readings(machine, command):
            if driver in (None, name):
                if told.sure:
                    return name, told
                unsure = unsure or (name, told)
    return unsure


def _readings(machine: Machine, command: CommandLine) -> Iterator[tuple[str, Told]]:
    for name in machine.plugins.drivers.names():
        try:
            driver = machine.plugins.drivers.get(name)
            told = driver.read_command(command) if isinstance(driver, ReadsCommands) else None
        except Exception:  # noqa: BLE001, S112 - a stranger's driver hinders nobody but itself
            continue
        if told is not None:
            yield name, told


def held_by(snapshot: HostSnapshot | None, pids: Collection[int]) -> dict[int, int]:
    """MiB that `pids` hold, by GPU."""
    held: dict[int, int] = {}
    for process in snapshot.processes if snapshot else ():
        if process.pid in pids and process.vram_mb:
            held[process.gpu] = held.get(process.gpu, 0) + process.vram_mb
    return held


def service_fields(
    machine: Machine,
    subject: Subject,
    params: AdoptParams,
    held: Mapping[int, int],
    cards: Sequence[GpuReading],
    listening: Collection[int],
) -> tuple[dict[str, Any], list[str]]:
    """The fields of the service, but for its id, and what is to be said of them.

    Raises UsageError `not-recognised` and `which-port`.
    """
    found = read(machine, subject.commands, params.driver)
    if found is None:
        raise _not_recognised(machine, subject, params.driver)
    driver, told = found
    fields, notes = dict(told.fields), list(told.notes)
    fields |= {"driver": driver, "adopted": subject.adopted, "port": _port(subject, params, fields, listening)}
    fields["unit_vars"] = _without_secrets(fields.get("unit_vars", {}))
    sure = subject.box is not None and containers.place(subject.box, fields, cards)
    if subject.box:
        notes += _from_inside(subject.box, fields)
    notes += _place(fields, held, cards, subject.commands, sure=sure)
    fields["vram_mb"] = sum(held.values()) if params.vram_mb is None else params.vram_mb
    return fields, notes


def _from_inside(box: ContainerFacts, fields: dict[str, Any]) -> Iterator[str]:
    """Settle the model's path, which is told as it is in there, and tell what is to be said of the container."""
    if (path := str(fields.get("model_path") or "")).startswith("/"):
        if (there := containers.outside(box, path)) is not None:
            fields["model_path"] = there
        else:
            yield f"its model {path} is told as it is in the container"
    if box.project:
        yield (
            f"it belongs to the compose project {box.project}: `docker compose up` may make it anew, which then is "
            "another container, to be adopted again"
        )


def _place(
    fields: dict[str, Any],
    held: Mapping[int, int],
    cards: Sequence[GpuReading],
    commands: Sequence[CommandLine],
    *,
    sure: bool,
) -> tuple[str, ...]:
    """Settle the `gpus` of the fields, and return what is to be said of them.

    Where memory is held is seen. What CUDA_VISIBLE_DEVICES says is counted by CUDA, which by default puts the fastest
    card first; gpumod counts as the driver does, by their places on the bus. Both agree where all cards are of a kind,
    and `sure` are those that were not counted by CUDA.
    """
    said = fields.get("gpus")
    by_bus = any(command.env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" for command in commands)
    trusted = (
        sure or by_bus or len({(card.name, card.total_mb) for card in cards}) <= 1 or len(said or ()) == len(cards)
    )
    if held and len(cards) > 1 and (said is None or len(said) == len(held) or (len(said) == 1 and not trusted)):
        fields["gpus"] = tuple(sorted(held))
    elif said is not None and not {*said} <= {card.index for card in cards}:
        del fields["gpus"]
    elif said is not None and not trusted:
        if len(said) == 1:  # several are the runtime's own condition: better the wrong ones than none
            del fields["gpus"]
        order = "CUDA counts the fastest card first, for its CUDA_DEVICE_ORDER is not PCI_BUS_ID"
        return (f"on which GPU it runs is seen when it runs ({order}): gpumod service edit ID --gpus 0 says it now",)
    return ()


def _without_secrets(unit_vars: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is started from it, so secrets of a command line need not be kept."""
    left, secret = secrets.split(unit_vars)
    return dict(left or {}) if secret else dict(unit_vars)


def _port(subject: Subject, params: AdoptParams, fields: Mapping[str, Any], listening: Collection[int]) -> int:
    said = params.port or fields.get("port")
    if subject.box and not params.port and not (subject.box.shares_network and said is None):
        return containers.port_of(subject.box, said, subject.command)
    if said is not None:
        return int(said)
    if len(listening) == 1:
        return next(iter(listening))
    many = f"it listens on {', '.join(map(str, sorted(listening)))}" if listening else "it listens on none that is seen"
    raise UsageError(
        "which-port",
        f"{subject.adopted} does not say on which port it serves",
        why=many,
        hint=f"{subject.command} --port N",
    )


def _not_recognised(machine: Machine, subject: Subject, driver: str | None) -> UsageError:
    if driver is not None:
        machine.plugins.drivers.get(driver)  # an unknown one is told as such
    said = f"driver {driver} does not know" if driver else "no driver knows"
    first = " ".join(subject.commands[0].argv[:3]) if subject.commands else "no command line that can be read"
    return UsageError(
        "not-recognised",
        f"{said} what {subject.adopted} runs",
        why=f"it runs: {first:.200}",
        hint='pip install "gpumod[fastapi]" adopts any HTTP service, "gpumod[all]" every runtime',
    )


def slug(text: str, taken: Collection[str]) -> str:
    """An id made of `text` that is not taken."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:56] or "service"
    numbered = (f"{clean}-{n}" for n in range(2, 10_000))
    return clean if clean not in taken else next(name for name in numbered if name not in taken)


def resolve_process(machine: Machine, around: Surroundings, pid: int) -> ProcessFacts | None:
    """The process that serves, of which `pid` may be a worker: the farthest of the ancestors in a row that a driver
    knows for sure, else the nearest that listens; None where nothing of that is so. `nvidia-smi` names workers.

    One in a container is taken as it is: what is above it is the container's keeper.
    """
    chain = around.chain(pid)
    if chain and chain[0].container:
        return chain[0]
    sure = [(told := read(machine, [facts.command])) is not None and told[1].sure for facts in chain]
    if any(sure):
        first = sure.index(True)
        return chain[[*sure, False].index(False, first) - 1]
    listening = around.listening({facts.pid for facts in chain})
    return next((facts for facts in chain if listening.get(facts.pid)), None)


def refuse_boxed(machine: Machine, subject: Subject) -> None:
    """Raise UsageError `in-container` for a process in a container, with what adopts that one where it can be.

    A unit that runs one is a unit like others. Blocks.
    """
    box = subject.container
    if box is None or subject.adopted.pid is None:
        return
    found, unasked = containers.quietly(machine, box.id)
    if found is not None and found.id.startswith(
        box.id
    ):  # what is no engine's has a name there, which may be another's
        containers.refuse(found)
        command = f"gpumod service adopt {found.name} --container"
        why, hint = "as a container it can be started again, too", command
    else:
        stop = f"`{box.engine} stop {box.id}`" if box.engine in ENGINES else "what keeps the container"
        why = "its port, its paths, and how it is started and stopped, are the container's"
        why += f"; and that cannot be asked after: {unasked.message}" if unasked else ""
        hint = f"{stop} stops it; while it runs, its memory counts as foreign"
        hint += (
            '; pip install "gpumod[docker]" adopts containers'
            if containers.KEEPER not in machine.plugins.supervisors
            else ""
        )
    raise UsageError(
        "in-container",
        f"{subject.adopted} runs in the {box}, and such a process cannot be adopted",
        why=why,
        hint=hint,
    )


def gone(what: str, error: GpumodError | None = None) -> UnknownName:
    why = error.info.message if error else "neither manager has a unit of this name"
    return UnknownName(
        "nothing-to-adopt", f"there is no {what} to adopt", why=why, hint="gpumod init shows what is found"
    )
