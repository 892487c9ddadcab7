"""What `gpumod init` finds, and proposes. Everything is looked at, nothing is touched.

A simulated machine has only what holds memory of its own cards: this computer's units and files are none of it.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpumod.domain.errors import ErrorInfo, GpumodError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.service import Service
from gpumod.engine.observe import observe
from gpumod.operations import containers
from gpumod.operations.adopting import Adopting
from gpumod.operations.adoption_params import AdoptParams, ImportFile
from gpumod.operations.adoption_results import FolderRow, Found, ProgramRow, Proposal
from gpumod.operations.base import unknown
from gpumod.operations.importing import Importing
from gpumod.operations.subjects import (
    NOT_KNOWN,
    Subject,
    held_by,
    of_container,
    of_process,
    of_unit,
    read,
    refuse_boxed,
    resolve_process,
    slug,
)
from gpumod.plugins.commands import words_from
from gpumod.ports.foreign import ContainerFacts, UnitFacts

PROGRAMS = ("ollama", "llama-swap")
"""Servers that no driver knows for sure, and that are worth a proposal also where they hold nothing now."""
LLAMA_SWAP = "llama-swap"


class Discovering(Importing, Adopting):
    async def _discover(self, take: tuple[str, ...], *, take_all: bool) -> Found:
        """Look around; the proposals in `take` (or all) become services: by their ids, or by what they are.

        Raises UnknownName `unknown-proposal`, and then makes a service of none.
        """
        machine, around = self._machine, self._around()
        snapshot = await observe(machine)
        programs = (machine.settings.vllm_bin, machine.settings.llama_server_bin, *PROGRAMS)
        asked = asyncio.create_task(asyncio.to_thread(around.programs, programs, machine.settings))
        problems: list[ErrorInfo] = []
        units = await asyncio.to_thread(self._units, problems)
        boxes = await asyncio.to_thread(containers.up, machine, problems)
        subjects = await asyncio.to_thread(self._subjects, units, boxes, snapshot)
        proposals = [await self._proposal(subject, snapshot) for subject in subjects]
        proposals = _with_ids(proposals, {*machine.store.services()})
        commands = [command for subject in subjects for command in subject.commands]
        if self._real:
            proposals += [_file(n, path) for n, path in enumerate(around.llama_swap_files(commands))]
        names = {name for proposal in proposals for name in (proposal.id, proposal.what)}
        for name in take:
            if name not in names:
                raise unknown("proposal", name, [proposal.id for proposal in proposals], "gpumod init")
        taken: list[str] = []
        for proposal in proposals:
            if proposal.problem is None and (take_all or {proposal.id, proposal.what} & {*take}):
                try:
                    taken += await self._take(proposal)
                except GpumodError as error:
                    problems.append(error.info)
        services = machine.store.services()
        nothing = tuple(name for name in taken if self._counts_nothing(services[name], snapshot))
        counts: dict[str, int] = {}
        for unit in units:
            counts[unit.manager] = counts.get(unit.manager, 0) + 1
        folders = await asyncio.to_thread(around.model_folders, machine.settings)
        return Found(
            programs=tuple(ProgramRow(**program.model_dump(exclude={"failed"})) for program in await asked),
            model_folders=tuple(FolderRow(**folder.model_dump()) for folder in folders),
            units=counts,
            proposals=tuple(proposals),
            taken=tuple(taken),
            counted_as_nothing=nothing,
            problems=tuple(problems),
        )

    @property
    def _real(self) -> bool:
        return self._machine.settings.sim_machine is None

    def _units(self, problems: list[ErrorInfo]) -> list[UnitFacts]:
        found: list[UnitFacts] = []
        for manager in self._around().managers():
            try:
                found += self._around().units(manager)
            except GpumodError as error:
                problems.append(error.info)
        return found

    def _subjects(
        self, units: list[UnitFacts], boxes: Sequence[ContainerFacts], snapshot: HostSnapshot
    ) -> list[Subject]:
        """Units, and containers that are up, that hold GPU memory or (on a real machine) run what a driver knows; then
        processes that hold some."""
        around = self._around()
        known = {service.adopted.thing for service in self._machine.store.services().values() if service.adopted}
        holders = {p.pid for p in snapshot.processes if p.service is None}
        found = [of_unit(around, unit) for unit in units]
        kept = {pid for subject in found for pid in subject.pids}  # a container that a unit keeps is the unit's
        found += [of_container(around, box) for box in boxes if not box.own and not kept & {*box.pids}]
        found = [
            subject for subject in found if holders & set(subject.pids) or (self._real and self._is_server(subject))
        ]
        covered = {pid for subject in found for pid in subject.pids}
        for pid in sorted(holders - covered):
            if pid not in covered and (facts := resolve_process(self._machine, around, pid)) is not None:
                subject = of_process(facts)
                covered |= {pid, *subject.pids}
                found = _with(found, subject)
        return [subject for subject in found if subject.adopted.thing not in known]

    def _is_server(self, subject: Subject) -> bool:
        told = read(self._machine, subject.commands)
        named = any(words_from(command.argv, name) for command in subject.commands for name in PROGRAMS)
        return named or (told is not None and told[1].sure)

    async def _proposal(self, subject: Subject, snapshot: HostSnapshot) -> Proposal:
        proposal = Proposal(
            id=subject.stem,
            kind=subject.adopted.kind,
            what=str(subject.adopted),
            command=subject.command,
            running=bool(subject.pids),
            held_mb=sum(held_by(snapshot, subject.pids).values()),
        )
        try:
            await asyncio.to_thread(refuse_boxed, self._machine, subject)
            if subject.box:
                containers.refuse(subject.box)
            await self._refuse_adopted(subject)
            service, notes = await self._as_service(subject, AdoptParams(what=subject.what), snapshot)
        except GpumodError as error:
            return proposal.model_copy(update={"problem": error.info})
        if self._counts_nothing(service, snapshot):
            notes.append(NOT_KNOWN)
        return proposal.model_copy(update={"id": service.id, "service": service, "notes": tuple(notes)})

    def _counts_nothing(self, service: Service, snapshot: HostSnapshot) -> bool:
        return not self._footprint(service, snapshot).vram_mb and not self._machine.hosts_members(service)

    async def _take(self, proposal: Proposal) -> list[str]:
        words = shlex.split(proposal.command)
        if proposal.kind == "llama-swap":
            done = await self.import_llama_swap(ImportFile(file=words[-1]))
            return [row.id for row in done.rows if row.action == "added"]
        adopted = proposal.service.adopted if proposal.service else None
        manager = adopted.manager if adopted else None
        container = proposal.kind == "container"
        await self.service_adopt(AdoptParams(what=words[3], manager=manager, container=container, id=proposal.id))
        return [proposal.id]


def _with(found: list[Subject], subject: Subject) -> list[Subject]:
    """`found` and another process; those of one container are told as one."""
    for n, other in enumerate(found):
        if subject.container and other.container == subject.container and other.adopted.pid:
            return [*found[:n], replace(other, pids=(*other.pids, *subject.pids)), *found[n + 1 :]]
    return [*found, subject]


def _with_ids(proposals: list[Proposal], taken: set[str]) -> list[Proposal]:
    """Each with an id of its own, which its command says too."""
    out = []
    for proposal in proposals:
        name = slug(proposal.id, taken)
        taken.add(name)
        service = proposal.service.model_copy(update={"id": name}) if proposal.service else None
        command = f"{proposal.command} --id {name}"
        out.append(proposal.model_copy(update={"id": name, "service": service, "command": command}))
    return out


def _file(number: int, path: Path) -> Proposal:
    return Proposal(
        id=f"{LLAMA_SWAP}-file{f'-{number + 1}' if number else ''}",
        kind="llama-swap",
        what=str(path),
        command=f"gpumod import llama-swap {shlex.quote(str(path))}",
    )
